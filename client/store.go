package client

import (
	"fmt"
	"sync"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Entry is one message in an outbox.
type Entry struct {
	RoomID   string
	ClientID string
	Text     string
	ReplyTo  uint64
	// CreatedMs is when it was put in, Unix milliseconds.
	CreatedMs int64
	// Ack is set once the server has acknowledged it.
	Ack *Ack
}

// Ack is what an acknowledgement said.
type Ack struct {
	Seq uint64
	// AckedMs is when it came, Unix milliseconds by the client's clock.
	AckedMs int64
	// Shard, Term and Index are the position at which the message is durable.
	Shard       uint32
	Term, Index uint64
}

func (a *Ack) position() *edgev1.Position {
	return &edgev1.Position{Shard: a.Shard, Term: a.Term, Index: a.Index}
}

// Store keeps an outbox. It is used by one Outbox, which serialises its calls.
// What a method has returned without error survives a crash of the process and,
// where the store claims so, of the machine. After an error of Add the entry
// may or may not be there; the Outbox then refuses the message.
type Store interface {
	// Entries returns what is stored, in the order of Add.
	Entries() []Entry
	// Add appends an entry without Ack; its ClientID is not stored yet.
	Add(e Entry) error
	// SetAck notes or replaces the acknowledgement of a stored entry.
	SetAck(clientID string, a Ack) error
	// Remove forgets entries; unknown ones are passed over.
	Remove(clientIDs ...string) error
	// Close gives back what the store holds open.
	Close() error
}

// MemoryStore is a Store that lives as long as the process.
type MemoryStore struct {
	mu    sync.Mutex
	table table
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore { return &MemoryStore{table: newTable()} }

// Entries implements Store.
func (s *MemoryStore) Entries() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.list()
}

// Add implements Store.
func (s *MemoryStore) Add(e Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.apply(change{kind: changeAdd, entry: e})
}

// SetAck implements Store.
func (s *MemoryStore) SetAck(clientID string, a Ack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.apply(change{kind: changeAck, entry: Entry{ClientID: clientID, Ack: &a}})
}

// Remove implements Store.
func (s *MemoryStore) Remove(clientIDs ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range clientIDs {
		if err := s.table.apply(change{kind: changeRemove, entry: Entry{ClientID: id}}); err != nil {
			return err
		}
	}
	return nil
}

// Close implements Store.
func (s *MemoryStore) Close() error { return nil }

// change is one step of a store's content; the file store's records are these.
type change struct {
	kind  byte
	entry Entry // for all but changeAdd only the ClientID and Ack
}

const (
	changeAdd    = 1
	changeAck    = 2
	changeRemove = 3
)

// table is the content of a store.
type table struct {
	entries map[string]*Entry
	order   []string // in the order of adding; removed ones stay until swept
	garbage int      // how many in order are removed
}

func newTable() table { return table{entries: map[string]*Entry{}} }

func (t *table) apply(c change) error {
	id := c.entry.ClientID
	old := t.entries[id]
	switch c.kind {
	case changeAdd:
		if old != nil {
			return fmt.Errorf("%w: %s", ErrInOutbox, id)
		}
		e := c.entry
		t.entries[id] = &e
		t.order = append(t.order, id)
	case changeAck:
		if old == nil {
			return fmt.Errorf("outbox: acknowledged message %s is not stored", id)
		}
		ack := *c.entry.Ack
		old.Ack = &ack
	case changeRemove:
		if old != nil {
			delete(t.entries, id)
			t.garbage++
			t.sweep()
		}
	default:
		return fmt.Errorf("outbox: unknown change %d", c.kind)
	}
	return nil
}

// sweep drops removed IDs from the order once they are the larger part of it.
// An ID that was removed and added again stands twice in the order until then;
// only its last place counts.
func (t *table) sweep() {
	if t.garbage < 64 || t.garbage*2 < len(t.order) {
		return
	}
	t.order, t.garbage = t.live(), 0
}

func (t *table) live() []string {
	last := make(map[string]int, len(t.entries))
	for i, id := range t.order {
		last[id] = i
	}
	out := make([]string, 0, len(t.entries))
	for i, id := range t.order {
		if t.entries[id] != nil && last[id] == i {
			out = append(out, id)
		}
	}
	return out
}

func (t *table) list() []Entry {
	ids := t.live()
	out := make([]Entry, 0, len(ids))
	for _, id := range ids {
		e := *t.entries[id]
		if e.Ack != nil {
			ack := *e.Ack
			e.Ack = &ack
		}
		out = append(out, e)
	}
	return out
}
