// Package load measures a server from outside, through package client, as
// anyone could: the workloads send (W1), deliver (W2), fanout (W3), idle (W4),
// history (W5) and receipts (W7).
//
// Vocabulary. A closed loop has a fixed number of operations outstanding: the
// next begins when one ends, so its latencies tell how the server is, and its
// rate is the result. An open loop begins operations at intended times that
// depend on nothing; a latency counts from the intended time, so that a server
// that stalls is charged for everybody who would have waited (no coordinated
// omission). The warm-up is run like the window but not counted.
//
// What is counted: an operation that ends in the window is part of the rate;
// the latency of each that is under way in the window is part of the
// percentiles, however late it ends and whether it succeeds or not. The
// server's CPU time and everyone else's on the machine are read from /proc at
// both ends of the window.
//
// A run uses a server of its own, started on a free loopback port over a fresh
// temporary folder on the disk that os.TempDir names, and stopped by its
// process ID; or the server of Config.Target, whose CPU is then not known.
//
// The ceiling is the same generator's figure on a bare relay, which stores and
// decides nothing: what the machine allows. A comparison runs two servers in
// turns, for what else the machine does changes by the minute; a suite runs
// every workload so. Results print themselves as a table, as JSON and as a page
// (package report).
//
// Concurrency: a measurement is one call that owns all it starts and waits for
// it. Two at once on one machine measure each other.
//
// What it does not do: it judges no message's content or place (proof/drill
// and proof/oracle do) beyond what makes a figure worthless.
package load
