package peers

import (
	"context"
	"time"
)

// Description is what a reader of the table must know about a peer.
type Description struct {
	// Version of the server and its database, as they tell it.
	Version string `json:"version"`
	// Durable is whether an acknowledged message is on disk.
	Durable bool `json:"durable"`
	// Ack is what an acknowledgement means.
	Ack string `json:"ack"`
}

// Arrived is told of each message at a socket that takes part: the receiver's of
// pair who, or member who's of the room. It is called on the goroutine that
// reads the socket, must not block, and keeps nothing of text.
type Arrived func(who int, text []byte)

// Sender sends for one person.
type Sender interface {
	// Send sends one message and waits until it is acknowledged. text is plain
	// ASCII without markup.
	Send(ctx context.Context, text string) error
}

// Fetch reads the newest messages of the long room and says how many came.
type Fetch func(ctx context.Context) (int, error)

// Peer is a server under measurement. The calls come in this order: Start, one
// of Pairs, Room and Long, Stop. Stop is called in any case and undoes
// everything that was begun.
type Peer interface {
	Name() string
	// Lacks says what must be installed, as a message to the user; empty if
	// nothing.
	Lacks() string
	// Start starts it over an empty folder and returns when it can be used.
	Start(ctx context.Context, dir string) error
	// Describe may be called once it is started.
	Describe() Description
	// Processes are the IDs of the processes that, with all their descendants,
	// are the server.
	Processes() []int
	// Pairs brings n pairs online, the first of each of whom sends.
	Pairs(ctx context.Context, n int, arrived Arrived) ([]Sender, error)
	// Room brings members online in one room and returns the first senders.
	Room(ctx context.Context, members, senders int, arrived Arrived) ([]Sender, error)
	// Long makes a room of two with exactly so many messages.
	Long(ctx context.Context, messages, bytes int) (Fetch, error)
	Stop() error
}

// pageSize is how many messages a Fetch reads.
const pageSize = 50

// setupTimeout bounds each conversation that brings somebody online.
const setupTimeout = 60 * time.Second
