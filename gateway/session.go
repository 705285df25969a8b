package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/overload"
)

const (
	// maxInFlight bounds the requests of one session whose answers are not
	// written yet.
	maxInFlight = 64
	// maxQueuedEvents and maxQueuedEventBytes bound the events waiting for one
	// socket; beyond them it lags and reads from the view instead.
	maxQueuedEvents     = 256
	maxQueuedEventBytes = 256 << 10
	// maxLooseAnswers bounds the answers that hold no request's place (errors
	// to frames that are no request); beyond it the socket is not read.
	maxLooseAnswers = 64
	// maxBadFrames a minute, then the socket is closed.
	maxBadFrames = 100
	helloWithin  = 10 * time.Second
	// closeWait is how long the client may take to answer a close frame.
	closeWait = 5 * time.Second
	// writeBatchBytes is how much is gathered into one write.
	writeBatchBytes = 64 << 10
)

// Close codes of our own (4000 to 4999 are for applications).
const (
	closeRevoked closeCode = 4401 // the device was signed out
)

// frameKind says what bound a queued frame counts against.
type frameKind uint8

const (
	eventFrame  frameKind = iota // may be dropped
	answerFrame                  // holds one place of maxInFlight until written
	looseFrame                   // an answer without a place
)

type outFrame struct {
	data []byte
	kind frameKind
}

// session is one socket, from its handshake to its end.
type session struct {
	g     *Gateway
	wire  wire
	codec codec
	began time.Time
	from  string // network address, for the log

	// ctx is the session's life: it ends the requests that nobody waits for
	// any more. Kept here because requests start from frames, not from calls.
	ctx    context.Context
	cancel context.CancelFunc
	// working counts the writer and the requests in flight.
	working sync.WaitGroup

	seat hubSeat // guarded by hub.mu

	// Owned by the reader goroutine.
	who       caller // zero until hello
	badSince  time.Time
	bad       int
	sending   map[id.ID]chan struct{} // by room: closed when the last send so far is answered
	helloEnds time.Time

	framesIn, framesOut, badFrames, lost atomic.Uint64

	mu          sync.Mutex // guards what follows; leaf lock
	queue       []outFrame
	held        []outFrame // events that came before hello was answered
	greeted     bool
	events      int // queued and held, with their bytes
	eventBytes  int
	loose       int
	inFlight    map[uint32]struct{} // ids not answered yet
	places      int                 // of maxInFlight taken
	dropped     uint64              // events since the session began to lag; 0: it does not
	pong        []byte              // owed, with havePong
	havePong    bool
	writing     bool   // the writer goroutine runs
	closing     []byte // close frame to write when the queue is empty
	hurry       bool   // and without waiting for requests in flight
	sealed      bool   // the close frame is being written: nothing may follow
	closed      bool   // it is written
	closeReason string
	broken      bool // no more writing: the connection failed or is over
	drained     chan struct{}
}

func (g *Gateway) newSession(w wire, c codec, from string) *session {
	ctx, cancel := context.WithCancel(g.life)
	return &session{
		g: g, wire: w, codec: c, from: from, began: time.Now(), ctx: ctx, cancel: cancel,
		sending: make(map[id.ID]chan struct{}), inFlight: make(map[uint32]struct{}),
		drained: make(chan struct{}, 1),
	}
}

// run reads the socket until it ends and then waits for everything it started.
func (s *session) run() {
	s.helloEnds = time.Now().Add(helloWithin)
	err := s.readLoop()
	s.mu.Lock()
	over := s.sealed // the client had its chance to answer our close frame
	s.mu.Unlock()
	if !over {
		s.endWith(err)
		s.awaitClose(err)
	}
	s.mu.Lock()
	s.broken = true
	s.queue, s.held = nil, nil
	s.mu.Unlock()
	s.wire.close()
	s.cancel()
	s.g.hub.remove(s)
	s.working.Wait()
	s.g.forget(s)
	s.g.log.Debug("session closed", "user", s.who.user, "device", s.who.device, "protocol", s.codec.String(), "from", s.from,
		"seconds", time.Since(s.began).Seconds(), "frames_in", s.framesIn.Load(), "frames_out", s.framesOut.Load(),
		"bad", s.badFrames.Load(), "events_dropped", s.lost.Load(), "reason", s.reason(err))
}

func (s *session) reason(err error) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeReason != "" {
		return s.closeReason
	}
	if err != nil {
		return err.Error()
	}
	return "closed by client"
}

// errPeerClosed: the client sent a close frame.
var errPeerClosed = errors.New("closed by client")

// errFault: we failed while reading.
var errFault = errors.New("internal fault")

// endWith queues the close frame that err calls for.
func (s *session) endWith(err error) {
	var breach *protocolError
	var timeout net.Error
	switch {
	case errors.Is(err, errPeerClosed):
		s.finish(ws.StatusNormalClosure, "closed by client", true)
	case errors.Is(err, errFault):
		s.finish(ws.StatusInternalServerError, "internal fault", true)
	case errors.As(err, &breach):
		s.g.metrics.badFrames.WithLabelValues("protocol").Inc()
		s.finish(breach.code, breach.err.Error(), true)
	case errors.As(err, &timeout) && timeout.Timeout():
		if s.who == (caller{}) {
			s.finish(ws.StatusPolicyViolation, "no hello in time", true)
		} else {
			s.finish(ws.StatusPolicyViolation, "silent for too long", true)
		}
	default: // the connection is gone
		s.abort()
	}
}

// awaitClose waits, bounded, until the queue and the close frame are written
// and the client has answered the close frame.
func (s *session) awaitClose(err error) {
	limit := time.Now().Add(closeWait)
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	for {
		s.mu.Lock()
		done := s.broken || s.closed
		s.mu.Unlock()
		if done {
			break
		}
		select {
		case <-s.drained:
		case <-timer.C:
			return
		}
	}
	var breach *protocolError
	if errors.Is(err, errPeerClosed) || errors.As(err, &breach) {
		return
	}
	until := func() time.Time { return limit }
	for {
		m, err := s.wire.read(until)
		if err != nil || m.opCode == ws.OpClose {
			return
		}
	}
}

// until is when the next frame must have come.
func (s *session) until() time.Time {
	s.mu.Lock()
	sealed := s.sealed
	s.mu.Unlock()
	switch {
	case sealed:
		return time.Now().Add(writeTimeout + closeWait)
	case s.who == (caller{}):
		return s.helloEnds
	}
	return time.Now().Add(2 * s.g.cfg.Heartbeat)
}

func (s *session) readLoop() (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.g.panicked("read a socket", p)
			err = errFault
		}
	}()
	for {
		if err := s.awaitLoose(); err != nil {
			return err
		}
		m, err := s.wire.read(s.until)
		if err != nil {
			return err
		}
		s.framesIn.Add(1)
		s.g.metrics.framesIn.WithLabelValues(s.codec.String()).Inc()
		switch m.opCode {
		case ws.OpPing:
			s.owePong(m.data)
		case ws.OpPong:
		case ws.OpClose:
			return errPeerClosed
		default:
			if err := s.frame(m); err != nil {
				return err
			}
		}
	}
}

// awaitLoose holds reading back while too many errors wait to be written: a
// client that provokes them without reading them stops itself.
func (s *session) awaitLoose() error {
	for {
		s.mu.Lock()
		full, broken := s.loose >= maxLooseAnswers, s.broken
		s.mu.Unlock()
		if broken {
			return net.ErrClosed
		}
		if !full {
			return nil
		}
		select {
		case <-s.drained:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// frame handles one text or binary message; an error ends the connection.
func (s *session) frame(m wireMessage) error {
	var f edgev1.ClientFrame
	switch {
	case m.tooBig:
		return s.badFrame(s.codec.salvageID(m.data), "too_big", invalid("", "message_too_large", "a message has at most %d bytes", maxFrameBytes))
	case m.opCode != s.codec.opCode():
		return s.badFrame(0, "kind", invalid("", "frame_kind", "this subprotocol does not use this kind of frame"))
	}
	if err := s.codec.decode(m.data, &f); err != nil {
		return s.badFrame(s.codec.salvageID(m.data), "malformed", invalid("", "malformed", "the frame cannot be decoded"))
	}
	if f.GetId() == 0 {
		return s.badFrame(0, "no_id", invalid("id", "frame_id", "a frame needs an id other than 0"))
	}
	if f.GetRequest() == nil {
		return s.badFrame(f.GetId(), "no_request", invalid("", "no_request", "the frame holds no request that this server knows"))
	}
	if hello := f.GetHello(); hello != nil {
		return s.greet(&f, hello)
	}
	if s.who == (caller{}) {
		return s.badFrame(f.GetId(), "no_hello", refuse(codeUnauthenticated, "hello_first", "the first request on a socket is hello"))
	}
	return s.request(&f)
}

// badFrame answers a frame that is no request, and ends the connection of who
// sends too many of them.
func (s *session) badFrame(frameID uint32, kind string, why *refusal) error {
	s.badFrames.Add(1)
	s.g.metrics.badFrames.WithLabelValues(kind).Inc()
	s.answer(&edgev1.ServerFrame{Id: frameID, Body: &edgev1.ServerFrame_Error{Error: complete(why.e)}}, looseFrame)
	now := time.Now()
	if now.Sub(s.badSince) >= time.Minute {
		s.badSince, s.bad = now, 0
	}
	if s.bad++; s.bad >= maxBadFrames {
		return &protocolError{ws.StatusPolicyViolation, errors.New("too many bad frames")}
	}
	return nil
}

// request admits one request and starts it.
func (s *session) request(f *edgev1.ClientFrame) error {
	method, run := s.g.requestOf(f)
	if run == nil {
		return s.badFrame(f.GetId(), "no_request", invalid("", "no_request", "the frame holds no request that this server knows"))
	}
	s.mu.Lock()
	_, duplicate := s.inFlight[f.GetId()]
	full := s.places >= maxInFlight
	ending := s.closing != nil || s.sealed || s.broken
	if !duplicate && !full && !ending {
		s.inFlight[f.GetId()] = struct{}{}
		s.places++
	}
	s.mu.Unlock()
	switch {
	case duplicate:
		return s.badFrame(f.GetId(), "duplicate_id", invalid("id", "frame_id_in_use", "another request with this id is not answered yet"))
	case ending:
		s.refuseLoose(f.GetId(), method, unavailable("draining", overload.MinRetryAfter, "this socket is closing; connect again"))
		return nil
	case full:
		s.refuseLoose(f.GetId(), method, exhausted("too_many_in_flight", overload.MinRetryAfter, "at most %d requests at once on one socket", maxInFlight))
		return nil
	}
	class := overload.Lower(overload.Of(method), overload.Class(min(max(f.GetClass(), 0), overload.Classes)))
	if method == "Ping" {
		s.reply(f.GetId(), run(s.ctx, s.who))
		return nil
	}
	if ok, after := s.g.admission.Admit(class, userHash(s.who.user, s.g.now()), s.g.now()); !ok {
		s.g.metrics.refused.WithLabelValues(class.String()).Inc()
		s.g.metrics.requests.WithLabelValues(method, codeExhausted).Inc()
		s.reply(f.GetId(), errorFrame(overloaded(after).e))
		return nil
	}
	before, done := s.inOrder(f)
	deadline := overload.Deadline(class, time.Duration(f.GetDeadlineMs())*time.Millisecond)
	frameID, who := f.GetId(), s.who // who belongs to the reader
	s.working.Go(func() {
		defer s.g.admission.Done(class)
		if done != nil {
			defer close(done)
		}
		ctx, cancel := context.WithTimeout(s.ctx, deadline)
		defer cancel()
		if before != nil {
			select {
			case <-before:
			case <-ctx.Done():
				s.reply(frameID, errorFrame(timedOut().e))
				return
			}
		}
		s.reply(frameID, run(ctx, who))
	})
	return nil
}

// inOrder gives a send its place behind the earlier sends of this socket to
// the same room: the room's order is then the order in which they were typed,
// even if one has to be tried twice. Sends to different rooms do not wait for
// each other. Two nil channels for what is no send.
func (s *session) inOrder(f *edgev1.ClientFrame) (before, done chan struct{}) {
	send := f.GetSend()
	if send == nil {
		return nil, nil
	}
	room, err := id.Parse(id.Room, send.GetRoomId())
	if err != nil {
		return nil, nil // it will be refused
	}
	if len(s.sending) > maxInFlight {
		for r, c := range s.sending {
			select {
			case <-c:
				delete(s.sending, r)
			default:
			}
		}
	}
	before, done = s.sending[room], make(chan struct{})
	s.sending[room] = done
	return before, done
}

func errorFrame(e *edgev1.Error) *edgev1.ServerFrame {
	return &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Error{Error: complete(e)}}
}

// refuseLoose answers a request that got no place.
func (s *session) refuseLoose(frameID uint32, method string, r *refusal) {
	s.g.metrics.requests.WithLabelValues(method, r.e.GetCode()).Inc()
	f := errorFrame(r.e)
	f.Id = frameID
	s.answer(f, looseFrame)
}

// reply answers a request that holds a place.
func (s *session) reply(frameID uint32, f *edgev1.ServerFrame) {
	f.Id = frameID
	s.answer(f, answerFrame)
}

// answer queues an answer; it is never dropped while the socket lives.
func (s *session) answer(f *edgev1.ServerFrame, kind frameKind) {
	data, err := s.codec.encode(f)
	if err != nil { // invalid UTF-8 from the backend: the client must still hear something
		s.g.log.Error("answer cannot be encoded", "error", err)
		data, err = s.codec.encode(&edgev1.ServerFrame{Id: f.GetId(), Body: &edgev1.ServerFrame_Error{
			Error: refuse(codeInternal, "internal", "something went wrong on our side").e,
		}})
		if err != nil {
			s.abort()
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == answerFrame {
		delete(s.inFlight, f.GetId())
	}
	if s.broken || s.sealed {
		s.countWrittenLocked(outFrame{kind: kind}, true)
		return
	}
	if kind == looseFrame {
		s.loose++
	}
	s.queue = append(s.queue, outFrame{data, kind})
	s.wakeLocked()
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
		s.lost.Add(1)
		s.g.metrics.eventsDropped.Inc()
		return
	}
	s.events++
	s.eventBytes += len(data)
	if !s.greeted {
		s.held = append(s.held, outFrame{data, eventFrame})
		return
	}
	s.queue = append(s.queue, outFrame{data, eventFrame})
	s.wakeLocked()
}

// greeting queues the answer to hello, and behind it what came meanwhile.
func (s *session) greeting(f *edgev1.ServerFrame) {
	data, err := s.codec.encode(f)
	if err != nil {
		s.g.log.Error("hello cannot be encoded", "error", err)
		s.abort()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greeted = true
	s.loose++
	s.queue = append(append(s.queue, outFrame{data, looseFrame}), s.held...)
	s.held = nil
	s.wakeLocked()
}

func (s *session) owePong(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Only the newest ping needs an answer (RFC 6455, 5.5.3).
	s.pong, s.havePong = data, true
	s.wakeLocked()
}

// finish closes the socket politely: what is queued is written first and,
// unless in a hurry, what is being done is answered.
func (s *session) finish(code closeCode, reason string, hurry bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed || s.broken || s.closing != nil && (s.hurry || !hurry) {
		return
	}
	s.closing, s.closeReason, s.hurry = closeFrame(code, reason), reason, hurry
	s.wakeLocked()
}

// abort ends the connection at once.
func (s *session) abort() {
	s.mu.Lock()
	s.broken = true
	s.signalLocked()
	s.mu.Unlock()
	s.wire.close()
}

// wakeLocked starts the writer unless it runs. It exists only while there is
// something to write, so an idle session costs no writer.
func (s *session) wakeLocked() {
	if s.writing || s.broken || s.sealed {
		return
	}
	s.writing = true
	s.working.Go(s.writeLoop)
}

func (s *session) signalLocked() {
	select {
	case s.drained <- struct{}{}:
	default:
	}
}

// countWrittenLocked gives back what a frame held.
func (s *session) countWrittenLocked(f outFrame, never bool) {
	switch f.kind {
	case eventFrame:
		s.events--
		s.eventBytes -= len(f.data)
	case answerFrame:
		s.places--
	case looseFrame:
		if !never {
			s.loose--
		}
	}
}

// writeLoop writes until nothing waits. No lock is held while it does.
func (s *session) writeLoop() {
	for {
		batch, last := s.nextBatch()
		if batch == nil {
			return
		}
		frames := make(net.Buffers, 0, len(batch))
		for _, f := range batch {
			frames = append(frames, f.data)
		}
		err := s.wire.write(frames)
		s.framesOut.Add(uint64(len(batch)))
		s.g.metrics.framesOut.WithLabelValues(s.codec.String()).Add(float64(len(batch)))
		s.mu.Lock()
		for _, f := range batch {
			s.countWrittenLocked(f, false)
		}
		s.signalLocked()
		s.mu.Unlock()
		if err != nil {
			s.abort() // the reader notices
			return
		}
		if last {
			s.mu.Lock()
			s.closed = true
			s.signalLocked()
			s.mu.Unlock()
			s.wire.readBy(time.Now().Add(closeWait))
			return
		}
	}
}

const controlKind frameKind = 255 // counts against nothing

// nextBatch takes what to write next; nil when there is nothing, and the
// writer is then over. last tells that the close frame is in it.
func (s *session) nextBatch() (batch []outFrame, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		s.writing = false
		s.signalLocked()
		return nil, false
	}
	if s.havePong {
		batch = append(batch, outFrame{controlFrame(ws.OpPong, s.pong), controlKind})
		s.pong, s.havePong = nil, false
	}
	size, n := 0, 0
	for n < len(s.queue) && (n == 0 || size+len(s.queue[n].data) <= writeBatchBytes) {
		size += len(s.queue[n].data)
		n++
	}
	batch = append(batch, s.queue[:n]...)
	if n == len(s.queue) {
		s.queue = nil
	} else {
		s.queue = append(s.queue[:0:0], s.queue[n:]...)
	}
	if len(s.queue) == 0 && s.dropped > 0 && s.events == countEvents(batch) {
		// The client has caught up with what was kept: tell it what was not.
		lag := &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Event{Event: &edgev1.Event{Event: &edgev1.Event_Lag{Lag: &edgev1.LagEvent{Dropped: s.dropped}}}}}
		if data, err := s.codec.encode(lag); err == nil { // two numbers always encode
			batch = append(batch, outFrame{data, controlKind})
		}
		s.dropped = 0
	}
	if len(s.queue) == 0 && s.closing != nil && (s.hurry || s.places == countAnswers(batch)) {
		batch = append(batch, outFrame{s.closing, controlKind})
		s.closing, s.sealed = nil, true
		return batch, true
	}
	if len(batch) == 0 {
		s.writing = false
		s.signalLocked()
		return nil, false
	}
	return batch, last
}

func countEvents(batch []outFrame) (n int) {
	for _, f := range batch {
		if f.kind == eventFrame {
			n++
		}
	}
	return n
}

func countAnswers(batch []outFrame) (n int) {
	for _, f := range batch {
		if f.kind == answerFrame {
			n++
		}
	}
	return n
}
