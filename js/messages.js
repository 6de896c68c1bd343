// Shows the messages of a node on the node: what a file is, a setting without effect, an error.
//
// The messages of a running node come with its outputs. A patch sends its messages later, while another node samples, as
// events; the messages of one run are shown together. A message is cleared when the node runs again, or its patch works
// in a sampler again, without sending it. An error is cleared when the next run starts.

import { app } from '../../scripts/app.js'

const WIDGET = 'storyreel_messages'
const EVENT = 'storyreel.message'

function show(node, text) {
  let widget = node.widgets?.find((widget) => widget.name === WIDGET)
  if (!widget) {
    widget = app.widgets.STRING(node, WIDGET, ['STRING', { multiline: true }], app).widget
    widget.options.read_only = true
    if (widget.inputEl) widget.inputEl.readOnly = true
    widget.serialize = false // not in a saved graph
    widget.options.serialize = false // not in a queued prompt
    const [width, height] = node.size
    node.setSize([width, Math.max(height, node.computeSize()[1])])
  }
  widget.value = text
}

function clear(node) {
  const widget = node?.widgets?.find((widget) => widget.name === WIDGET)
  if (widget) widget.value = ''
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
    // A message belongs to the last run in which its node, or the sampler that its patch works in, did something.
    let run = {} // started: nodes that ran; warned: nodes with a message; sampled: whether anything was sampled
    const lines = new Map() // node id -> messages of its patch
    const begin = () => (run = { started: new Set(), warned: new Set(), sampled: false })
    begin()

    app.api.addEventListener(EVENT, ({ detail }) => {
      const node = nodeOf(detail.node)
      if (!node) return
      if (!run.warned.has(detail.node)) lines.set(detail.node, [])
      run.warned.add(detail.node)
      const messages = lines.get(detail.node)
      if (!messages.includes(detail.text)) messages.push(detail.text)
      show(node, messages.join('\n'))
    })

    // The host marks the failed node, and shows the reason only in a dialog.
    const failed = new Set()
    app.api.addEventListener('execution_error', ({ detail }) => {
      const node = detail.node_type?.startsWith('StoryReel') && nodeOf(String(detail.node_id).split('.')[0])
      if (!node) return
      failed.add(node)
      show(node, detail.exception_message.trim())
    })

    app.api.addEventListener('execution_start', () => {
      begin()
      for (const node of failed) clear(node)
      failed.clear()
    })
    app.api.addEventListener('executing', ({ detail }) => {
      const id = detail && String(detail).split('.')[0]
      if (!id || run.started.has(id)) return
      run.started.add(id)
      lines.delete(id)
      clear(nodeOf(id))
    })
    app.api.addEventListener('progress', () => (run.sampled = true))
    app.api.addEventListener('execution_success', () => {
      for (const id of [...lines.keys()].filter((id) => run.sampled && !run.warned.has(id))) {
        lines.delete(id)
        clear(nodeOf(id))
      }
    })
  }
})
