// Package peers runs the same workloads against Bongsu and against servers of
// other people, in turns on one machine, so that anyone can repeat the
// comparison: ejabberd with PostgreSQL, and a small server on the centrifuge
// library. docs/peers.md says how, and what each acknowledgement is worth.
//
// It is a module of its own, so that what the peers need never becomes a
// dependency of the product.
//
// Vocabulary. A Peer is a server under measurement with everything that it
// needs, its database too. A Workload is what is asked of it. A Run is one
// workload against one peer, freshly started over an empty folder; a round is
// one run of each peer, so that all see the same hour of the machine. An
// operation is what the workload counts: an acknowledgement, a delivery, a
// fetch.
//
// One loop, one clock, one histogram and one reading of /proc serve all peers;
// an adapter only starts its server, brings people online and puts one message
// on a socket. Every adapter is as lean as the others: it decodes no more than
// it must, and none of them uses package client on its sockets.
//
// Concurrency: one run at a time owns the machine; its goroutines have ended
// when it returns. Peers are not safe for concurrent use, their Senders are.
//
// What it does not do: it is no proof of what survives a crash (proof/drill is,
// for Bongsu), and it tunes nobody beyond what the comments at the
// configuration say.
package peers
