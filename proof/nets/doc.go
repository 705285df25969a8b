// Package nets joins the nodes of a drill by a network that can be broken: cut
// both ways or one way, slowed, stalled, with connections that are lost.
//
// Vocabulary: a Network has places, numbered from 0, one for each node, and an
// outside, where clients are. As root on Linux each place is a network namespace
// of its own with a real link to a bridge, and cuts are packets dropped by
// nftables inside it (Spaces). Else all places are this machine's loopback, and
// between each two stands a Proxy, one each way of calling (Loopback). A pair of
// places in namespaces may have proxies as well: only those can be slowed.
//
// The namespaces have no names and no process: they are held by open files of
// the drill, so they go with it however it ends, links and addresses included.
//
// Concurrency: everything is safe for use by several goroutines. Close waits for
// those that were started. It does not know what the nodes say to each other.
package nets
