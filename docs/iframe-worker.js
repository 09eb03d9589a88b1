// The site's search runs in a Worker, which browsers refuse to a page that was opened as a file. There a hidden frame
// takes the Worker's place: it loads the same script, gets what is posted to it, and posts its answers to us.
// The script finds out by the name IFrameWorker that it has to look for its languages beside itself.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super()
    const frame = Object.assign(document.createElement("iframe"), { hidden: true })
    document.body.appendChild(frame)
    this.inside = frame.contentWindow
    this.waiting = []
    this.inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
    this.inside.importScripts = (...scripts) =>
      scripts.reduce((before, src) => before.then(() => this.load(src)), Promise.resolve())
    this.load(new URL(url, location.href).href).then(() => {
      const waiting = this.waiting
      this.waiting = null
      waiting.forEach(data => this.postMessage(data))
    })
  }

  load(src) {
    const document = this.inside.document
    return new Promise((resolve, reject) => {
      const script = Object.assign(document.createElement("script"), { src, onload: resolve, onerror: reject })
      document.body.appendChild(script)
    })
  }

  postMessage(data) {
    if (this.waiting) this.waiting.push(data)
    else this.inside.dispatchEvent(new MessageEvent("message", { data }))
  }

  terminate() {
    this.inside.frameElement.remove()
  }
}
if (location.protocol === "file:") window.Worker = window.IFrameWorker
