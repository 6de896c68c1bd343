// Shows on a node what it has to say about its run, beside its outputs: what a file was taken for, for instance.

import { app } from '../../scripts/app.js'

const WIDGET = 'said'

function say(node, text) {
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

app.registerExtension({
  name: 'StoryReel.Said',
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith('StoryReel')) return
    const onExecuted = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments)
      if (output?.text) say(this, output.text.join('\n'))
    }
  }
})
