package drill

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/proof/history"
	"github.com/bongsu-im/bongsu/proof/oracle"
)

// account is the ledger that clients keep of one run: every message that someone
// meant to send, how often it was tried, and every acknowledgement. It is filled
// from the stores of their outboxes, so nothing is acknowledged past it.
type account struct {
	mu       sync.Mutex
	messages map[string]*noted // by client ID
	order    []*noted
	terms    map[uint32]uint64 // the highest term acknowledged, by shard
	watches  map[*watch]struct{}
	acked    int
	told     []acked // every acknowledgement, as it came
}

// noted is one message in the account.
type noted struct {
	sender   string // user ID
	who      int    // number of the sender
	roomID   string
	clientID string
	text     string
	intended time.Time
	attempts int
	tries    []try // the first and the newest failed ones
	// Of the first acknowledgement; zero while there is none.
	answered time.Time
	seq      uint64
	// again is a later acknowledgement that named another place.
	again uint64
}

// try is an attempt that failed.
type try struct {
	at  time.Time
	err error
}

const maxTries = 12

// acked is one acknowledgement.
type acked struct {
	at      time.Time
	waited  time.Duration
	shard   uint32
	retried bool
}

func newAccount() *account {
	return &account{messages: map[string]*noted{}, terms: map[uint32]uint64{}, watches: map[*watch]struct{}{}}
}

// keeper is the account of one person, as the store of an outbox.
type keeper struct {
	*client.MemoryStore
	account *account
	sender  string
	who     int
}

// Add implements client.Store.
func (k *keeper) Add(e client.Entry) error {
	if err := k.MemoryStore.Add(e); err != nil {
		return err
	}
	k.account.intend(k, e)
	return nil
}

// SetAck implements client.Store.
func (k *keeper) SetAck(clientID string, a client.Ack) error {
	k.account.acknowledge(clientID, a)
	return k.MemoryStore.SetAck(clientID, a)
}

func (a *account) intend(k *keeper, e client.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := &noted{sender: k.sender, who: k.who, roomID: e.RoomID, clientID: e.ClientID, text: e.Text, intended: time.Now(), attempts: 1}
	a.messages[e.ClientID] = m
	a.order = append(a.order, m)
}

// retry notes that one more attempt will be made.
func (a *account) retry(e client.Entry, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.messages[e.ClientID]; m != nil && m.seq == 0 {
		m.attempts++
		if len(m.tries) == maxTries {
			m.tries = slices.Delete(m.tries, maxTries/2, maxTries/2+1)
		}
		m.tries = append(m.tries, try{time.Now(), err})
	}
}

func (a *account) acknowledge(clientID string, ack client.Ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.messages[clientID]
	if m == nil {
		return // not of this run; the outboxes have no other
	}
	now := time.Now()
	if m.seq == 0 {
		m.answered, m.seq = now, ack.Seq
		a.acked++
		a.told = append(a.told, acked{at: now, waited: now.Sub(m.intended), shard: ack.Shard, retried: m.attempts > 1})
	} else if m.seq != ack.Seq {
		m.again = ack.Seq
	}
	for w := range a.watches {
		w.see(ack.Shard, ack.Term, now)
	}
	a.terms[ack.Shard] = max(a.terms[ack.Shard], ack.Term)
}

// acknowledged is how many messages were.
func (a *account) acknowledged() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acked
}

// flying is how many messages wait to be acknowledged.
func (a *account) flying() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.order) - a.acked
}

// watch waits for the first acknowledgement by a new owner of each of some
// shards: one of a later term than any before, so that none that was on its way
// already is taken for it.
type watch struct {
	began  time.Time
	before map[uint32]uint64
	first  map[uint32]time.Duration
	all    chan struct{} // closed when every shard has one
}

// watch begins to wait now.
func (a *account) watch(shards []uint32) *watch {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := &watch{began: time.Now(), before: map[uint32]uint64{}, first: map[uint32]time.Duration{}, all: make(chan struct{})}
	for _, s := range shards {
		w.before[s] = a.terms[s]
	}
	a.watches[w] = struct{}{}
	return w
}

// see is called with the account's lock held.
func (w *watch) see(shard uint32, term uint64, at time.Time) {
	before, ours := w.before[shard]
	if _, seen := w.first[shard]; !ours || seen || term <= before || at.Before(w.began) {
		return
	}
	w.first[shard] = at.Sub(w.began)
	if len(w.first) == len(w.before) {
		close(w.all)
	}
}

// done ends a watch and returns, by shard, how long each took.
func (a *account) done(w *watch) map[uint32]time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.watches, w)
	return w.first
}

// longestWait is the longest that a message waited which was under way between
// two moments.
func (a *account) longestWait(from, to time.Time) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.order {
		if m.intended.After(to) || m.seq > 0 && m.answered.Before(from) {
			continue
		}
		waited := time.Since(m.intended)
		if m.seq > 0 {
			waited = m.answered.Sub(m.intended)
		}
		longest = max(longest, waited)
	}
	return longest
}

// slow tells of the messages that waited longer than a bound, in words: when
// each was meant, how long it took, and why its attempts failed.
func (a *account) slow(began time.Time, bound time.Duration) (said []string, longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.order {
		waited := m.answered.Sub(m.intended)
		if m.seq == 0 {
			waited = time.Since(m.intended)
		}
		if longest = max(longest, waited); waited < bound {
			continue
		}
		text := fmt.Sprintf("message %s of sender %d in %s, meant at %.2f s, waited %v over %d attempts:", m.clientID, m.who, m.roomID, m.intended.Sub(began).Seconds(), waited.Round(time.Millisecond), m.attempts)
		for _, t := range m.tries {
			text += fmt.Sprintf(" [%.2f s: %v]", t.at.Sub(began).Seconds(), t.err)
		}
		said = append(said, text)
	}
	return said, longest
}

// newest is the highest place acknowledged in each room.
func (a *account) newest() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	newest := map[string]uint64{}
	for _, m := range a.order {
		newest[m.roomID] = max(newest[m.roomID], m.seq)
	}
	return newest
}

// newestIn is the same of one room.
func (a *account) newestIn(roomID string) (seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.order {
		if m.roomID == roomID {
			seq = max(seq, m.seq)
		}
	}
	return seq
}

// acknowledgements is what the oracle judges by. A message that was told two
// places is in it twice.
func (a *account) acknowledgements() (out []oracle.Acknowledgement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.order {
		for _, seq := range []uint64{m.seq, m.again} {
			if seq > 0 {
				out = append(out, oracle.Acknowledgement{RoomID: m.roomID, SenderID: m.sender, ClientID: m.clientID, Text: m.text, Seq: seq})
			}
		}
	}
	return out
}

// sends are the messages of each room as package history wants them.
func (a *account) sends() map[string][]history.Send {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string][]history.Send{}
	for _, m := range a.order {
		out[m.roomID] = append(out[m.roomID], history.Send{
			Who: m.who, Key: historyKey(m.sender, m.clientID), Seq: m.seq, Called: m.intended, Answer: m.answered,
		})
	}
	return out
}

func historyKey(sender, clientID string) string { return sender + " " + clientID }

// attempts counts the messages that were tried more than once.
func (a *account) retried() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.order {
		if m.attempts > 1 {
			n++
		}
	}
	return n
}

// rate is how many were acknowledged a second, from a moment to the last.
func (a *account) rate(from time.Time) float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.told) == 0 {
		return 0
	}
	last := a.told[len(a.told)-1].at
	return math.Round(float64(len(a.told))/max(last.Sub(from).Seconds(), 1e-3)*10) / 10
}

// perSecond sorts acknowledgements into the seconds of a run, with the waits of
// each.
func (a *account) perSecond(began time.Time) (waits [][]time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := slices.SortedFunc(slices.Values(a.told), func(x, y acked) int { return cmp.Compare(x.at.UnixNano(), y.at.UnixNano()) })
	for _, t := range told {
		s := int(t.at.Sub(began) / time.Second)
		if s < 0 {
			continue
		}
		for len(waits) <= s {
			waits = append(waits, nil)
		}
		waits[s] = append(waits[s], t.waited)
	}
	return waits
}
