// Package demo shows the promise to people in two minutes: three nodes on this
// machine, bots that talk through them, a page with buttons that kill, freeze
// and cut nodes off, and a ledger that checks what became of every message.
//
// Vocabulary. The fleet is the nodes, each a child process of this binary. A
// cable is the way by which one node reaches another: a proxy that can be cut.
// The front stands for the load balancer that a deployment has: one address
// that leads to a node that answers. The ledger holds what senders were told
// against what every reader sees; the meter measures how long senders waited.
// The corpus is what the bots have to say, in scenes; the director has them say
// it; the guide is the bot that greets people and tells them what is going on.
// The page is all of this in a browser, with the real client beside it.
//
// Nothing here is pretended: the faults are signals and dead cables, the bots
// are accounts that use the public API by client/, and the zeros on the page
// are counted by the ledger, which knows no server's code.
//
// Concurrency: Run owns every goroutine and process it starts and waits for
// them. Exported types are safe for use by several goroutines.
//
// What it does not do: it measures nothing for the record (three nodes, forty
// bots and a browser share one machine here; drills and benches measure), and
// it is not a deployment: keys lie beside the data.
package demo
