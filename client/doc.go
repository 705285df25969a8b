// Package client speaks to a Bongsu server: everything that is not a browser
// (bench, drills, probes, bots) goes through it.
//
// Vocabulary. A Client is one account signed in on one device; its methods are
// plain RPC calls, its session refreshes itself. A Conn is the live socket of a
// client: it reconnects for ever, multiplexes requests and delivers events. An
// Outbox holds messages until they are acknowledged, and for a while after. To
// follow a room is to get each of its messages exactly once, in order, whatever
// the socket does meanwhile.
//
// Both Client and Conn embed API, which has one method a server method; the
// answers are the generated types of gen/bongsu/edge/v1. Errors of the server
// are *Error; IsRetryable and IsRefusal sort them.
//
// Concurrency: every exported type is safe for use by several goroutines.
// Whoever makes a Client, Conn or Outbox closes it; Close waits for its
// goroutines.
//
// What it does not do: it keeps no copy of rooms or messages (read them from
// the server), and it retries nothing on its own but the refresh of a session,
// the socket, and what is in an outbox.
package client
