// Shows on a node what it has to say to its user, beside its outputs: what a file is, a setting without effect.
//
// What a node says while it runs comes with its outputs. What a patch says later, while another node samples, comes as
// an event; the lines of one run stand together. An error of a node stands on it until the next run.

import { app } from '../../scripts/app.js'

const WIDGET = 'storyreel_messages'
const EVENT = 'storyreel.message'

function show(node, text) {
  let widget = node.widgets?.find((widget) => widget.name === WIDGET)
  if (!widget) {
    widget = app.widgets.STRING(node, WIDGET, ['STRING', { multiline: true }], app).widget
    widget.options.read_only = true
    if (widget.inputEl) widget.inputEl.readOnly = true
    widget.serialize = false // neither in a saved graph
    widget.options.serialize = false // nor in what is queued
    const [width, height] = node.size
    node.setSize([width, Math.max(height, node.computeSize()[1])])
  }
  widget.value = text
}

// The node of an execution id such as "12" or "5:12", which is node 12 inside subgraph node 5.
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph
  const path = String(id).split(':')
  const last = path.pop()
  for (const step of path) graph = graph?.getNodeById(step)?.subgraph
  return graph?.getNodeById(last)
}

app.registerExtension({
  name: 'StoryReel.Messages',
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith('StoryReel')) return
    const onExecuted = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments)
      if (output?.text) show(this, output.text.join('\n'))
    }
  },
  setup() {
    const runs = new Map() // node id -> { run, lines }
    app.api.addEventListener(EVENT, ({ detail }) => {
      const node = nodeOf(detail.node)
      if (!node) return
      let said = runs.get(detail.node)
      if (said?.run !== detail.prompt_id) runs.set(detail.node, (said = { run: detail.prompt_id, lines: [] }))
      if (!said.lines.includes(detail.text)) said.lines.push(detail.text)
      show(node, said.lines.join('\n'))
    })

    // The host says only that the node failed, and why behind a button.
    const failed = new Set()
    app.api.addEventListener('execution_error', ({ detail }) => {
      const node = detail.node_type?.startsWith('StoryReel') && nodeOf(String(detail.node_id).split('.')[0])
      if (!node) return
      failed.add(node)
      show(node, detail.exception_message.trim())
    })
    app.api.addEventListener('execution_start', () => {
      for (const node of failed) show(node, '')
      failed.clear()
    })
  }
})
