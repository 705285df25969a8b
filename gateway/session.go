package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/overload"
)

const (
	// maxInFlight bounds the requests of one session whose answers are not
	// written yet.
	maxInFlight = 64
	// maxLooseAnswers bounds the answers that hold no request's place (errors
	// to frames that are no request); beyond it the socket is not read.
	maxLooseAnswers = 64
	// maxBadFrames a minute, then the socket is closed.
	maxBadFrames = 100
	helloWithin  = 10 * time.Second
	// closeWait is how long the client may take to answer a close frame.
	closeWait = 5 * time.Second
	// writeTimeout is how long a write may make no progress.
	writeTimeout = 10 * time.Second
)

// never is later than any moment.
const never = time.Duration(math.MaxInt64)

// patience is how long a session waits for its client.
type patience struct{ hello, silence, write, close time.Duration }

// Close codes of our own (4000 to 4999 are for applications).
const (
	closeRevoked closeCode = 4401 // the device was signed out
)

// session is one socket, from its handshake to its end. It holds no goroutine
// and no buffer while nothing happens; its wire calls it when something does.
// Moments are durations since the gateway was made.
type session struct {
	g     *Gateway
	wire  wire
	from  string // network address, for the log
	began time.Duration
	codec codec

	seat hubSeat // guarded by hub.mu

	// Owned by whoever reads.
	parser   parser
	who      caller // zero until hello; a hello under way owns it meanwhile
	badSince time.Duration
	heard    time.Duration // when the last message came
	bad      uint32
	framesIn uint32
	badTotal uint32
	stalled  bool   // nothing is read until what stalls it is over
	endErr   error  // why reading ended; messages but close are then ignored
	unread   []byte // came, but is not looked at while stalled

	held atomic.Int32 // bytes of parser and unread, for the metric

	mu          sync.Mutex    // guards what follows; a leaf but for a loop's list
	dirty       bool          // the wire was kicked and has not come yet
	resting     bool          // it has come and put the write off; it comes again for it
	helloing    bool          // hello is being answered
	greeted     bool          // it was, with success
	hurry       bool          // close without waiting for requests in flight
	sealed      bool          // the close frame is queued: nothing may follow
	closed      bool          // it is written
	peerDone    bool          // nothing that still comes matters
	broken      bool          // no more writing: the connection failed or is over
	gone        bool          // the wire has let go
	havePong    bool          // pong is owed
	closeEnds   time.Duration // when not to wait for the client's close any more; 0: not yet
	stuckSince  time.Duration // when the client last took something while more waits; 0: nothing waits
	queue       []outFrame
	early       []outFrame // events that came before hello was answered
	sent        int        // bytes of the queue's first frame that are written
	events      int        // queued and early, with their bytes
	eventBytes  int
	loose       int      // queued loose answers
	places      int      // of maxInFlight taken
	inFlight    []uint32 // ids not answered yet
	lines       []line   // sends under way, by room
	ready       []*call  // whose turn has come
	dropped     uint64   // events since the session began to lag; 0: it does not
	lost        uint64   // events dropped in all
	framesOut   uint64
	pong        []byte
	closing     []byte // close frame to write when the queue is empty
	closeReason string
	workers     int             // goroutines of this session
	ctx         context.Context // ends with the session; kept here because requests start from frames, and only while there are workers
	cancel      context.CancelFunc
}

func (g *Gateway) newSession(c codec, from string) *session {
	now := g.uptime()
	return &session{g: g, codec: c, from: from, began: now, heard: now}
}

// uptime is the present moment.
func (g *Gateway) uptime() time.Duration { return time.Since(g.birth) }

// errPeerClosed: the client sent a close frame.
var errPeerClosed = errors.New("closed by client")

// errFault: we failed while reading.
var errFault = errors.New("internal fault")

// errNoHello and errSilent: the client's time is up.
var (
	errNoHello = errors.New("no hello in time")
	errSilent  = errors.New("silent for too long")
)

// receive takes bytes from the client and handles the messages in them. The
// bytes are overwritten, and not kept. What comes behind a stall waits for resume.
func (s *session) receive(data []byte, now time.Duration) {
	defer s.survive(now)
	for len(data) > 0 && !s.stalled && !s.deaf() {
		m, ok, used, err := s.parser.next(data)
		data = data[used:]
		if err != nil {
			s.ended(err, now)
			break
		}
		if ok {
			s.heard = now
			s.message(m, now)
		}
	}
	if s.stalled && len(data) > 0 {
		s.unread = append(s.unread, data...)
	}
	if held := int32(s.parser.held() + cap(s.unread)); held != s.held.Load() {
		s.held.Store(held)
	}
}

// deaf: whatever comes does not matter any more.
func (s *session) deaf() bool {
	if s.endErr == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerDone || s.broken
}

// survive keeps a fault of ours in one session from ending the process; it is
// deferred. The session ends.
func (s *session) survive(now time.Duration) {
	if p := recover(); p != nil {
		s.g.panicked("read a socket", p)
		s.ended(errFault, now)
	}
}

// resume goes on reading if nothing stalls the session any more.
func (s *session) resume(now time.Duration) {
	if s.stalled {
		s.mu.Lock()
		s.stalled = s.blockedLocked()
		s.mu.Unlock()
		if !s.stalled {
			s.heard = now // it was not the client who was silent
		}
	}
	if !s.stalled && len(s.unread) > 0 {
		data := s.unread
		s.unread = nil
		s.receive(data, now)
	}
}

// blockedLocked: a client that provokes errors without reading them stops
// itself, and until hello is answered nothing else is.
func (s *session) blockedLocked() bool {
	return !s.broken && (s.helloing || s.loose >= maxLooseAnswers)
}

func (s *session) message(m wireMessage, now time.Duration) {
	s.framesIn++
	s.g.metrics.framesIn[s.codec].Inc()
	switch m.opCode {
	case ws.OpPing:
		s.owePong(m.data)
	case ws.OpPong:
	case ws.OpClose:
		s.ended(errPeerClosed, now)
	default:
		if s.endErr != nil {
			return // we are waiting for its close frame
		}
		if err := s.frame(m, now); err != nil {
			s.ended(err, now)
		}
	}
}

// ended begins the end that err calls for: the close frame is queued, or the
// connection is given up.
func (s *session) ended(err error, now time.Duration) {
	if s.endErr == nil {
		s.endErr = err
	}
	var breach *protocolError
	done := true
	switch {
	case errors.Is(err, errPeerClosed):
		s.finish(ws.StatusNormalClosure, "closed by client", true)
	case errors.Is(err, errNoHello), errors.Is(err, errSilent):
		s.finish(ws.StatusPolicyViolation, err.Error(), true)
		done = false
	case errors.Is(err, errFault):
		s.finish(ws.StatusInternalServerError, "internal fault", true)
		done = false
	case errors.As(err, &breach):
		s.g.metrics.badFrames.WithLabelValues("protocol").Inc()
		s.finish(breach.code, breach.err.Error(), true)
	default: // the connection is gone
		s.abort()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peerDone = s.peerDone || done
	if s.closeEnds == 0 {
		s.closeEnds = now + s.g.patience.close
	}
	s.kickLocked()
}

// doneLocked: the wire may let go.
func (s *session) doneLocked(now time.Duration) bool {
	return s.broken || s.closed && s.peerDone || s.closeEnds != 0 && now >= s.closeEnds
}

// dueLocked is when tick must be called next, at the latest; until then the
// session may only become due later, or it kicks.
func (s *session) dueLocked() time.Duration {
	due := never
	switch {
	case s.closeEnds != 0:
		due = s.closeEnds
	case s.stalled: // the one who waits is not the client
	case !s.greeted:
		due = s.began + s.g.patience.hello
	default:
		due = s.heard + s.g.patience.silence
	}
	if s.stuckSince != 0 {
		due = min(due, s.stuckSince+s.g.patience.write)
	}
	for i := range s.lines {
		for _, c := range s.lines[i].waiting {
			due = min(due, c.deadline.Sub(s.g.birth))
		}
	}
	return due
}

// tick does what is due.
func (s *session) tick(now time.Duration) {
	s.mu.Lock()
	var overdue error
	switch {
	case s.doneLocked(now):
	case s.stuckSince != 0 && now >= s.stuckSince+s.g.patience.write:
		overdue = io.ErrNoProgress
	case s.closeEnds != 0 || s.stalled:
	case !s.greeted && now >= s.began+s.g.patience.hello:
		overdue = errNoHello
	case s.greeted && now >= s.heard+s.g.patience.silence:
		overdue = errSilent
	}
	late := s.lateLocked(now)
	s.mu.Unlock()
	if overdue != nil {
		s.ended(overdue, now)
	}
	for _, c := range late {
		c.answer(nil, timedOut())
	}
}

// frame handles one text or binary message; an error ends the connection.
func (s *session) frame(m wireMessage, now time.Duration) error {
	switch {
	case m.tooBig:
		return s.badFrame(now, s.codec.salvageID(m.data), "too_big", invalid("", "message_too_large", "a message has at most %d bytes", maxFrameBytes))
	case m.opCode != s.codec.opCode():
		return s.badFrame(now, 0, "kind", invalid("", "frame_kind", "this subprotocol does not use this kind of frame"))
	}
	f := new(edgev1.ClientFrame)
	if err := s.codec.decode(m.data, f); err != nil {
		return s.badFrame(now, s.codec.salvageID(m.data), "malformed", invalid("", "malformed", "the frame cannot be decoded"))
	}
	if f.GetId() == 0 {
		return s.badFrame(now, 0, "no_id", invalid("id", "frame_id", "a frame needs an id other than 0"))
	}
	if f.GetRequest() == nil {
		return s.badFrame(now, f.GetId(), "no_request", invalid("", "no_request", "the frame holds no request that this server knows"))
	}
	if hello := f.GetHello(); hello != nil {
		return s.greet(now, f, hello)
	}
	if s.who == (caller{}) {
		return s.badFrame(now, f.GetId(), "no_hello", refuse(codeUnauthenticated, "hello_first", "the first request on a socket is hello"))
	}
	return s.request(now, f)
}

// badFrame answers a frame that is no request, and ends the connection of who
// sends too many of them.
func (s *session) badFrame(now time.Duration, frameID uint32, kind string, why *refusal) error {
	s.badTotal++
	s.g.metrics.badFrames.WithLabelValues(kind).Inc()
	s.refuseLoose(frameID, why)
	if s.bad == 0 || now-s.badSince >= time.Minute {
		s.badSince, s.bad = now, 0
	}
	if s.bad++; s.bad >= maxBadFrames {
		return &protocolError{ws.StatusPolicyViolation, errors.New("too many bad frames")}
	}
	return nil
}

// refuseLoose answers what got no place.
func (s *session) refuseLoose(frameID uint32, r *refusal) {
	f := errorFrame(r.e)
	f.Id = frameID
	s.answer(f, looseFrame)
	s.mu.Lock()
	s.stalled = s.stalled || s.blockedLocked()
	s.mu.Unlock()
}

// request admits one request and starts it.
func (s *session) request(now time.Duration, f *edgev1.ClientFrame) error {
	method, run := s.g.requestOf(f)
	if method == "" {
		return s.badFrame(now, f.GetId(), "no_request", invalid("", "no_request", "the frame holds no request that this server knows"))
	}
	frameID := f.GetId()
	switch s.takePlace(frameID) {
	case placeDuplicate:
		return s.badFrame(now, frameID, "duplicate_id", invalid("id", "frame_id_in_use", "another request with this id is not answered yet"))
	case placeEnding:
		s.g.metrics.method(method).count(codeUnavailable)
		s.refuseLoose(frameID, unavailable("draining", againSoon, "this socket is closing; connect again"))
		return nil
	case placeFull:
		s.g.metrics.method(method).count(codeExhausted)
		s.refuseLoose(frameID, exhausted("too_many_in_flight", overload.MinRetryAfter, "at most %d requests at once on one socket", maxInFlight))
		return nil
	}
	if method == "Ping" {
		s.reply(frameID, run(context.Background(), s.who)) // it waits for nothing
		return nil
	}
	class := overload.Lower(overload.Of(method), overload.Class(min(max(f.GetClass(), 0), overload.Classes)))
	wall := s.g.now()
	if ok, after := s.g.admission.Admit(class, userHash(s.who.user, wall), wall); !ok {
		s.g.metrics.refused.WithLabelValues(class.String()).Inc()
		s.g.metrics.method(method).count(codeExhausted)
		s.reply(frameID, errorFrame(overloaded(after).e))
		return nil
	}
	patience := overload.Deadline(class, time.Duration(f.GetDeadlineMs())*time.Millisecond)
	if run == nil {
		s.begin(f, class, patience)
		return nil
	}
	who := s.who
	started := s.spawn(func(ctx context.Context) {
		defer s.g.admission.Done(class)
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		s.reply(frameID, run(ctx, who))
	})
	if !started {
		s.g.admission.Done(class)
	}
	return nil
}

// place says whether a request may start.
type place uint8

const (
	placeTaken place = iota
	placeDuplicate
	placeEnding
	placeFull
)

func (s *session) takePlace(frameID uint32) place {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.inFlight {
		if other == frameID {
			return placeDuplicate
		}
	}
	switch {
	case s.closing != nil || s.sealed || s.broken:
		return placeEnding
	case s.places >= maxInFlight:
		return placeFull
	}
	s.inFlight = append(s.inFlight, frameID)
	s.places++
	return placeTaken
}

// spawn runs f beside the session, which is not forgotten before f ends; its
// context ends with the session. It returns false if that is over.
func (s *session) spawn(f func(context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.broken {
		return false
	}
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancel(s.g.life)
	}
	s.workers++
	ctx := s.ctx
	go func() {
		defer s.workerOver()
		f(ctx)
	}()
	return true
}

func (s *session) workerOver() {
	s.mu.Lock()
	s.workers--
	if s.workers == 0 && s.cancel != nil {
		s.cancel()
		s.ctx, s.cancel = nil, nil
	}
	last := s.gone && s.workers == 0
	s.mu.Unlock()
	if last {
		s.g.forget(s)
	}
}

// over is called by the wire, once, when it has let go: nothing of this
// session is read or written any more.
func (s *session) over() {
	s.mu.Lock()
	s.broken, s.gone = true, true
	s.queue, s.early, s.inFlight, s.pong = nil, nil, nil, nil
	abandoned := s.ready
	for _, l := range s.lines {
		abandoned = append(abandoned, l.waiting...)
	}
	s.ready, s.lines = nil, nil
	if s.cancel != nil {
		s.cancel()
	}
	last := s.workers == 0
	s.mu.Unlock()
	s.parser, s.unread = parser{}, nil
	s.held.Store(0)
	for _, c := range abandoned {
		s.g.admission.Done(c.class)
	}
	s.g.hub.remove(s)
	if last {
		s.g.forget(s)
	}
}

// forget is the end of a session: nothing of it runs.
func (g *Gateway) forget(s *session) {
	g.hub.remove(s) // a hello that ended late may have joined again
	g.mu.Lock()
	delete(g.sessions, s)
	g.mu.Unlock()
	if g.log.Enabled(context.Background(), slog.LevelDebug) {
		s.mu.Lock()
		reason := s.closeReason
		if reason == "" && s.endErr != nil {
			reason = s.endErr.Error()
		}
		g.log.Debug("session closed", "user", s.who.user, "device", s.who.device, "protocol", s.codec.String(), "from", s.from,
			"seconds", (g.uptime() - s.began).Seconds(), "frames_in", s.framesIn, "frames_out", s.framesOut,
			"bad", s.badTotal, "events_dropped", s.lost, "reason", reason)
		s.mu.Unlock()
	}
	g.running.Done()
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
	s.kickLocked()
}

// abort ends the connection at once.
func (s *session) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abortLocked()
}

func (s *session) abortLocked() {
	if !s.gone {
		s.broken, s.dirty = true, true
		s.wire.kick()
	}
}

// kickLocked asks the wire for a turn, unless it has been asked.
func (s *session) kickLocked() {
	if (!s.dirty || s.resting) && !s.gone {
		s.dirty, s.resting = true, false
		s.wire.kick()
	}
}

// nudgeLocked is kickLocked for what may wait for a turn that is coming anyway.
func (s *session) nudgeLocked() {
	if !s.dirty {
		s.kickLocked()
	}
}
