package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/bongsu-im/bongsu/proof/oracle"
)

// settleTime is how long after the last fault everybody must be served again.
const settleTime = 20 * time.Second

// settle waits until the cluster serves: from every machine a new message of
// everybody is acknowledged.
func (w *world) settle(ctx context.Context) bool {
	healed := time.Now()
	if !w.await(settleTime, w.whole) {
		for _, m := range w.machines {
			l := m.up()
			if l == nil {
				w.wrong("machine %d is down %v after the last fault", m.at, settleTime)
			} else if err := l.plane.Ready(); err != nil {
				w.wrong("machine %d is not ready %v after the last fault: %v", m.at, settleTime, err)
			}
		}
		return false
	}
	if !w.await(settleTime, func() bool { return w.served(healed) }) {
		w.wrong("not everybody was served within %v of the last fault", time.Since(healed).Round(time.Second))
		return false
	}
	return true
}

// served tells whether in every room somebody was acknowledged since.
func (w *world) served(since time.Time) bool {
	for _, r := range w.rooms {
		r.mu.Lock()
		n := len(r.acked)
		ok := n > 0 && r.acked[n-1].at.After(since)
		r.mu.Unlock()
		if !ok {
			return false
		}
	}
	return true
}

// judge reads everything from every replica. Nobody sends any more.
func (w *world) judge() {
	if !w.await(settleTime, w.quiet) {
		w.wrong("replicas do not come to the same place: %s", w.places())
		return
	}
	w.judgeRooms()
	w.judgeReplicas()
}

// quiet tells whether all replicas stand at one place, and stay there.
func (w *world) quiet() bool {
	before := w.places()
	<-time.After(time.Second) // longer than a pump rests after a failure at first
	return w.places() == before && w.same()
}

func (w *world) places() string {
	var b bytes.Buffer
	for _, m := range w.machines {
		fmt.Fprintf(&b, "machine %d:", m.at)
		if l := m.up(); l != nil {
			for _, mark := range l.plane.View.Marks() {
				fmt.Fprintf(&b, " %d/%d", mark.GetTerm(), mark.GetIndex())
			}
		}
		b.WriteString("; ")
	}
	return b.String()
}

func (w *world) same() bool {
	for shard := range w.shards {
		first := uint64(0)
		for i, m := range w.machines {
			l := m.up()
			if l == nil {
				return false
			}
			at := l.plane.View.Shard(shard).Mark().GetIndex()
			if i == 0 {
				first = at
			}
			if at != first {
				return false
			}
		}
	}
	return true
}

// judgeRooms gives every member's side of every room, from every machine, to
// the oracle.
func (w *world) judgeRooms() {
	ctx := context.Background()
	var acks []oracle.Acknowledgement
	var sides []oracle.Side
	for _, r := range w.rooms {
		for _, s := range r.acked {
			acks = append(acks, oracle.Acknowledgement{RoomID: r.id.String(), SenderID: s.sender.id.String(), ClientID: s.client(), Text: s.text, Seq: s.seq})
		}
		for _, m := range w.machines {
			for _, p := range r.members[:2] {
				all, err := p.side(ctx, r, m.up())
				if err != nil {
					w.wrong("room %s cannot be read by %s at machine %d: %v", r.id, p.login, m.at, err)
					continue
				}
				w.compare(r, all)
				sides = append(sides, oracle.Side{RoomID: r.id.String(), Reader: fmt.Sprintf("%s at machine %d", p.login, m.at), Messages: all})
			}
		}
	}
	w.stats.Readings = len(sides)
	v := oracle.Judge(acks, sides)
	if v.Wrong() > 0 {
		w.wrong("the oracle: %d lost, %d duplicated, %d moved, %d holes", v.Lost, v.Duplicated, v.Moved, v.Holes)
		for _, d := range v.Details {
			w.wrong("the oracle: %s", d)
		}
	}
	w.judgeRefused(sides)
}

// judgeRefused: what was refused for certain, every time, is nowhere.
func (w *world) judgeRefused(sides []oracle.Side) {
	refused := map[string]*send{}
	for _, s := range w.sends {
		if s.given && s.seq == 0 {
			refused[s.client()] = s
			w.stats.Given++
		}
	}
	for _, side := range sides {
		for _, m := range side.Messages {
			if s := refused[m.GetClientId()]; s != nil {
				w.wrong("message %s was refused every time it was sent, and is at %d of room %s", m.GetClientId(), m.GetSeq(), side.RoomID)
				delete(refused, m.GetClientId())
			}
		}
	}
}

// judgeReplicas: at the same position every view holds the same bytes, running
// hash and all (invariants 5 and 6).
func (w *world) judgeReplicas() {
	for shard := range w.shards {
		var first []byte
		for i, m := range w.machines {
			sum, err := dump(m.up(), shard)
			if err != nil {
				w.wrong("the view of machine %d cannot be read: %v", m.at, err)
				continue
			}
			w.stats.ReplicasCompared++
			if i == 0 {
				first = sum
			}
			if !bytes.Equal(sum, first) {
				w.wrong("shard %d: the views of machines 0 and %d differ at the same position", shard, m.at)
			}
		}
	}
}

func dump(l *life, shard int) ([]byte, error) {
	r, err := l.plane.View.Shard(shard).Reader()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	err = r.Dump(func(key, value []byte) bool {
		var size [8]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(key)))
		binary.BigEndian.PutUint32(size[4:], uint32(len(value)))
		h.Write(size[:])
		h.Write(key)
		h.Write(value)
		return true
	})
	if err := r.Close(); err != nil {
		return nil, err
	}
	return h.Sum(nil), err
}
