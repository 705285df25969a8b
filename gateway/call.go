package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/overload"
)

// call is one Send or MarkRead of a socket, under way in the backend without a
// goroutine of its own. (One that has to be tried again gets one.)
type call struct {
	s        *session
	method   *methodMetrics
	cmd      *nodev1.Command
	began    time.Time
	deadline time.Time
	frameID  uint32
	class    overload.Class
	ordered  bool // it is the first of its room's line
	answered atomic.Bool
	room     id.ID
}

// line keeps the sends of one socket to one room in the order in which they
// were typed, even if one has to be tried twice: the first is under way, the
// others wait. Sends to different rooms do not wait for each other.
type line struct {
	room    id.ID
	waiting []*call
}

// begin starts a Send or MarkRead that has its place and is admitted.
func (s *session) begin(f *edgev1.ClientFrame, class overload.Class, within time.Duration) {
	c := &call{s: s, began: time.Now(), frameID: f.GetId(), class: class}
	c.deadline = c.began.Add(within)
	var err error
	if send := f.GetSend(); send != nil {
		c.method = s.g.metrics.method("Send")
		c.cmd, c.room, err = sendCommand(s.who, send)
		c.ordered = err == nil
	} else {
		c.method = s.g.metrics.method("MarkRead")
		c.cmd, err = markReadCommand(s.who, f.GetMarkRead())
	}
	if err != nil {
		c.answer(nil, err)
		return
	}
	if !c.ordered || s.queueUp(c) {
		c.start()
	}
}

// queueUp gives a send its place in its room's line; true if it is the first.
func (s *session) queueUp(c *call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.lines {
		if l := &s.lines[i]; l.room == c.room {
			l.waiting = append(l.waiting, c)
			s.kickLocked() // its deadline may be the next thing due
			return false
		}
	}
	s.lines = append(s.lines, line{room: c.room})
	return true
}

// nextLocked: the first of a room's line is answered.
func (s *session) nextLocked(room id.ID) {
	for i := range s.lines {
		l := &s.lines[i]
		if l.room != room {
			continue
		}
		if len(l.waiting) > 0 {
			s.ready = append(s.ready, l.waiting[0])
			l.waiting = l.waiting[1:]
			s.kickLocked()
			return
		}
		last := len(s.lines) - 1
		s.lines[i] = s.lines[last]
		s.lines[last] = line{}
		s.lines = s.lines[:last]
		return
	}
}

// lateLocked takes out of the lines whose time is up.
func (s *session) lateLocked(now time.Duration) (late []*call) {
	for i := range s.lines {
		l := &s.lines[i]
		kept := l.waiting[:0]
		for _, c := range l.waiting {
			if c.deadline.Sub(s.g.birth) <= now {
				c.ordered = false
				late = append(late, c)
			} else {
				kept = append(kept, c)
			}
		}
		clear(l.waiting[len(kept):])
		l.waiting = kept
	}
	return late
}

// startReady begins a turn of the wire: it starts the sends whose turn has come.
func (s *session) startReady() {
	s.mu.Lock()
	s.dirty, s.resting = false, false
	ready := s.ready
	s.ready = nil
	s.mu.Unlock()
	for _, c := range ready {
		c.start()
	}
}

// start hands the command to the backend, which calls done.
func (c *call) start() {
	defer func() {
		if p := recover(); p != nil {
			c.s.g.panicked(c.method.name, p)
			c.answer(nil, internalFault())
		}
	}()
	c.s.g.backend.Begin(c.cmd, c.deadline, c.done)
}

// done is called by the backend, from any goroutine. It does not wait.
func (c *call) done(reply *nodev1.Reply, err error) {
	defer c.s.g.guard("answer a command")
	if err == nil && (reply.GetError() == nil || !curable(reply.GetError())) {
		if e := reply.GetError(); e != nil {
			err = &refusal{e}
		}
		c.answer(reply, err)
		return
	}
	retrying := c.s.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithDeadline(ctx, c.deadline)
		defer cancel()
		reply, _, err := c.s.g.settle(ctx, c.cmd, reply, err)
		c.answer(reply, err)
	})
	if !retrying {
		c.answer(nil, timedOut())
	}
}

// answer says how it ended, and lets the next send to the room go.
func (c *call) answer(reply *nodev1.Reply, err error) {
	if c.answered.Swap(true) {
		return // a fault has been answered already
	}
	s, g := c.s, c.s.g
	frame, code := c.frame(reply, err)
	c.method.count(code)
	c.method.latency.Observe(time.Since(c.began).Seconds())
	g.admission.Done(c.class)
	data := s.encode(frame)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answerLocked(c.frameID, data, answerFrame)
	if c.ordered {
		s.nextLocked(c.room)
	}
}

// frame is the answer and its code.
func (c *call) frame(reply *nodev1.Reply, err error) (_ *edgev1.ServerFrame, code string) {
	if err == nil && c.ordered && reply.GetMessage() == nil {
		err = errors.New("the backend acknowledged a send without the message")
	}
	switch {
	case err != nil:
		e := c.s.g.asError(c.s.g.life, c.method.name, err)
		return &edgev1.ServerFrame{Id: c.frameID, Body: &edgev1.ServerFrame_Error{Error: e}}, e.GetCode()
	case c.ordered:
		out := &struct {
			frame edgev1.ServerFrame
			body  edgev1.ServerFrame_Send
			send  edgev1.SendResponse
		}{}
		out.send.Message, out.send.Position = reply.GetMessage(), reply.GetPosition()
		out.body.Send = &out.send
		out.frame.Id, out.frame.Body = c.frameID, &out.body
		return &out.frame, codeOK
	}
	return &edgev1.ServerFrame{Id: c.frameID, Body: &edgev1.ServerFrame_MarkRead{MarkRead: &edgev1.MarkReadResponse{Position: reply.GetPosition()}}}, codeOK
}
