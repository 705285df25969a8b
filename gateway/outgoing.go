package gateway

import (
	"slices"
	"time"

	"github.com/gobwas/ws"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

const (
	// maxQueuedEvents and maxQueuedEventBytes bound the events waiting for one
	// socket; beyond them it lags and reads from the view instead.
	maxQueuedEvents     = 1024
	maxQueuedEventBytes = 512 << 10
	// writeBatchBytes is how much is gathered into one write.
	writeBatchBytes = 64 << 10
)

// frameKind says what bound a queued frame counts against.
type frameKind uint8

const (
	eventFrame   frameKind = iota // may be dropped
	answerFrame                   // holds one place of maxInFlight until written
	looseFrame                    // an answer without a place
	controlKind                   // counts against nothing
	closingFrame                  // the last one
)

// outFrame is one encoded WebSocket frame on its way to the client.
type outFrame struct {
	data []byte
	kind frameKind
}

// reply answers a request that holds a place.
func (s *session) reply(frameID uint32, f *edgev1.ServerFrame) {
	f.Id = frameID
	s.answer(f, answerFrame)
}

// answer queues an answer; it is never dropped while the socket lives.
func (s *session) answer(f *edgev1.ServerFrame, kind frameKind) {
	data := s.encode(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answerLocked(f.GetId(), data, kind)
}

// encode returns nil if nothing can be said at all: the session is then over.
func (s *session) encode(f *edgev1.ServerFrame) []byte {
	data, err := s.codec.encode(f)
	if err == nil {
		return data
	}
	// Invalid UTF-8 from the backend: the client must still hear something.
	s.g.log.Error("answer cannot be encoded", "error", err)
	data, err = s.codec.encode(&edgev1.ServerFrame{Id: f.GetId(), Body: &edgev1.ServerFrame_Error{
		Error: internalFault().e,
	}})
	if err != nil {
		s.abort()
		return nil
	}
	return data
}

func (s *session) answerLocked(frameID uint32, data []byte, kind frameKind) {
	if kind == answerFrame {
		if i := slices.Index(s.inFlight, frameID); i >= 0 {
			s.inFlight[i] = s.inFlight[len(s.inFlight)-1]
			s.inFlight = s.inFlight[:len(s.inFlight)-1]
		}
	}
	if s.broken || s.sealed || data == nil {
		if kind == answerFrame {
			s.places--
		}
		return
	}
	if kind == looseFrame {
		s.loose++
	}
	s.queue = append(s.queue, outFrame{data, kind})
	s.kickLocked()
}

// offer queues an event, or notes that the session lags. Events that only
// decorate (typing) are dropped long before and never make it lag.
func (s *session) offer(p *prepared, decoration bool) {
	data, err := p.frame(s.codec)
	if err != nil {
		s.g.metrics.badFeed.Inc()
		s.g.log.Error("event cannot be encoded", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken || s.closing != nil || s.sealed {
		return
	}
	if decoration && (s.dropped > 0 || s.events >= maxQueuedEvents/2 || !s.greeted) {
		return
	}
	if s.dropped > 0 || s.events >= maxQueuedEvents || s.eventBytes+len(data) > maxQueuedEventBytes {
		s.dropped++
		s.lost++
		s.g.metrics.eventsDropped.Inc()
		return
	}
	s.events++
	s.eventBytes += len(data)
	if !s.greeted {
		s.early = append(s.early, outFrame{data, eventFrame})
		return
	}
	s.queue = append(s.queue, outFrame{data, eventFrame})
	s.nudgeLocked()
}

// greeting queues the answer to hello, and behind it what came meanwhile.
func (s *session) greeting(f *edgev1.ServerFrame) {
	data := s.encode(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greeted = true
	s.answerLocked(f.GetId(), data, looseFrame)
	if !s.broken && !s.sealed {
		s.queue = append(s.queue, s.early...)
	}
	s.early = nil
}

func (s *session) owePong(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Only the newest ping needs an answer (RFC 6455, 5.5.3).
	s.pong, s.havePong = slices.Clone(data), true
	s.kickLocked()
}

// gatherLocked prepares the next write: the first n frames of the queue, of
// which the first may be written in part (s.sent). They stay where they are
// until advanceLocked.
func (s *session) gatherLocked() (n, size int) {
	if s.broken {
		return 0, 0
	}
	if s.havePong && !s.sealed { // before everything but a frame that is half written
		pong := outFrame{controlFrame(ws.OpPong, s.pong), controlKind}
		s.queue = slices.Insert(s.queue, min(s.sent, 1, len(s.queue)), pong)
		s.pong, s.havePong = nil, false
	}
	for n < len(s.queue) && (n == 0 || size+len(s.queue[n].data) <= writeBatchBytes) {
		size += len(s.queue[n].data)
		n++
	}
	if n < len(s.queue) || s.sealed {
		return n, size - s.sent
	}
	if s.dropped > 0 && s.greeted {
		// The client has caught up with what was kept: tell it what was not.
		lag := &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Event{Event: &edgev1.Event{Event: &edgev1.Event_Lag{Lag: &edgev1.LagEvent{Dropped: s.dropped}}}}}
		if data, err := s.codec.encode(lag); err == nil { // two numbers always encode
			s.queue = append(s.queue, outFrame{data, controlKind})
			size += len(data)
			n++
		}
		s.dropped = 0
	}
	if s.closing != nil && (s.hurry || s.places == countAnswers(s.queue)) {
		s.queue = append(s.queue, outFrame{s.closing, closingFrame})
		size += len(s.closing)
		n++
		s.closing, s.sealed = nil, true
	}
	return n, size - s.sent
}

// onlyEventsLocked tells whether nothing waits to be written but a few events,
// for which nobody waits.
func (s *session) onlyEventsLocked() bool {
	return len(s.queue) > 0 && s.events == len(s.queue) && s.sent == 0 && s.eventBytes < writeBatchBytes/2 &&
		!s.havePong && s.closing == nil && s.dropped == 0 && !s.broken
}

func countAnswers(queue []outFrame) (n int) {
	for _, f := range queue {
		if f.kind == answerFrame {
			n++
		}
	}
	return n
}

// advanceLocked takes n written bytes off the queue.
func (s *session) advanceLocked(n int, now time.Duration) {
	s.sent += n
	k := 0
	for ; k < len(s.queue) && s.sent >= len(s.queue[k].data); k++ {
		f := &s.queue[k]
		s.sent -= len(f.data)
		switch f.kind {
		case eventFrame:
			s.events--
			s.eventBytes -= len(f.data)
		case answerFrame:
			s.places--
		case looseFrame:
			s.loose--
		case closingFrame:
			s.closed = true
			s.closeEnds = now + s.g.patience.close
		}
		f.data = nil
	}
	if s.queue = s.queue[k:]; len(s.queue) == 0 {
		s.queue = nil
	}
	if k > 0 {
		s.framesOut += uint64(k)
		s.g.metrics.framesOut[s.codec].Add(float64(k))
	}
}

// queued is how many bytes wait to be written.
func (s *session) queued() (bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.queue {
		bytes += len(f.data)
	}
	for _, f := range s.early {
		bytes += len(f.data)
	}
	return bytes - s.sent
}
