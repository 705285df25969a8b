package sim

import (
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// claim is what an answer to one read must show, taken down before it is asked
// for, while faults come:
//
//   - with the positions that the person knows, everything that they were
//     acknowledged themselves;
//   - whatever was acknowledged through this very life of the node;
//   - everything that anybody was acknowledged more than grace ago: a replica
//     that is further behind refuses;
//   - and no denial of a room whose making was acknowledged.
type claim struct {
	p       *person
	r       *room
	l       *life
	own     uint64 // the newest number that it must show for the first two
	old     uint64 // for the third
	existed bool
	carry   bool
}

func (w *world) claims(p *person, r *room, l *life, carry bool) *claim {
	c := &claim{p: p, r: r, l: l, carry: carry}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	c.existed = !r.opened.IsZero()
	for _, s := range r.acked {
		if carry && s.sender == p || s.through == l {
			c.own = max(c.own, s.seq)
		}
		if now.Sub(s.at) > grace {
			c.old = max(c.old, s.seq)
		}
	}
	return c
}

func (c *claim) judge(reply *nodev1.QueryReply) {
	w := c.p.w
	w.count(&w.stats.Reads)
	if e := reply.GetError(); e != nil {
		if c.existed {
			w.wrong("%s at machine %d: room %s was made %v ago, and is denied: %s; %s", c.p.login, c.l.m.at, c.r.id, time.Since(c.r.since()), e.GetInfo().GetReason(), w.owners())
		}
		return
	}
	page := reply.GetHistory().GetMessages()
	var newest uint64
	if len(page) > 0 {
		newest = page[len(page)-1].GetSeq()
	}
	if newest < c.own {
		w.wrong("%s at machine %d: room %s ends at %d, the reader or this node was told %d (positions carried: %v); %s", c.p.login, c.l.m.at, c.r.id, newest, c.own, c.carry, w.owners())
	}
	if newest < c.old {
		w.wrong("%s at machine %d: room %s ends at %d, %d was acknowledged more than %v ago; %s", c.p.login, c.l.m.at, c.r.id, newest, c.old, grace, w.owners())
	}
	w.compare(c.r, page)
}

// compare holds a page against what others have read: a number is one message,
// for everybody and for ever.
func (w *world) compare(r *room, page []*edgev1.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, m := range page {
		if i > 0 && m.GetSeq() != page[i-1].GetSeq()+1 {
			w.wrongLocked("room %s: a page shows %d after %d", r.id, m.GetSeq(), page[i-1].GetSeq())
		}
		at := place{r, m.GetSeq()}
		if have, ok := w.read[at]; ok && have != m.GetClientId() {
			w.wrongLocked("room %s: number %d was read as %s and as %s", r.id, m.GetSeq(), have, m.GetClientId())
		}
		w.read[at] = m.GetClientId()
	}
}

type place struct {
	room *room
	seq  uint64
}
