package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// loopReadBytes is what a loop reads at once of one socket; it is the most
	// work one socket gets in a turn.
	loopReadBytes = 16 << 10
	// loopEvents is how many sockets a loop hears of at once.
	loopEvents = 256
	// loopWrites is how many writes one socket gets in a turn.
	loopWrites = 4
	// loopTick is how exact the sessions' deadlines are.
	loopTick = 500 * time.Millisecond
	// After a round with at least loopCrowd writes, sockets that only have
	// events wait for up to loopRest, so that a busy room's next events share
	// their write: a write costs more than twenty events.
	loopCrowd = 16
	loopRest  = 5 * time.Millisecond
)

// loops are the goroutines that carry all parked sessions, one for each
// processor. Each has its own epoll, whose descriptor Go's poller watches like
// any other file: an idle loop costs no thread.
type loops struct {
	all  []*loop
	next atomic.Uint32
}

// loop carries its share of the sessions: it alone reads, writes and closes
// their descriptors.
type loop struct {
	g      *Gateway
	file   *os.File // the epoll
	raw    syscall.RawConn
	epoll  int
	over   chan struct{} // closed when run has ended
	asleep atomic.Bool   // whoever makes it false must wake the loop

	mu       sync.Mutex // guards what follows; a leaf
	dirty    []*parked  // asked for a turn
	stopping bool

	// Owned by run.
	slots  []slot
	free   []uint32
	spare  []*parked // the list that dirty is exchanged with
	events []unix.EpollEvent
	in     []byte
	out    []byte
	open   int
	tick   time.Duration // when the slots are looked over next
	rearm  bool          // the file's deadline is not that of the tick

	resting   []*parked     // have only events, which wait until restUntil
	rested    []*parked     // the list that resting is exchanged with
	restUntil time.Duration // no rest before the first crowd
	writes    int           // in this round
}

// slot is where an event finds its session. The generation keeps an event that
// was meant for a closed descriptor from reaching whoever has the slot next.
type slot struct {
	p   *parked
	gen int32
	due time.Duration // no later than the session's
}

// parked carries a session without a goroutine or a buffer of its own. All but
// kick belongs to the loop.
type parked struct {
	l        *loop
	s        *session
	fd       int
	slot     int // -1: not watched yet
	interest uint32
	released bool
	stuck    bool // the system takes no more; wait until it does
	resting  bool // it is on the loop's list of that
	full     bool // more has come than may be read now
}

func (p *parked) driver() driver { return epollDriver }

// park takes the connection over from Go's poller; nil if it is none that
// epoll can watch.
func (g *Gateway) park(s *session, conn net.Conn) wire {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	l := g.loopFor()
	if l == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	fd := -1
	control := raw.Control(func(own uintptr) {
		if fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0); err != nil {
			fd = -1
		}
	})
	if err := errors.Join(control, err); err != nil {
		g.log.Warn("socket not parked", "error", err)
		return nil
	}
	_ = tcp.Close() // ours is another descriptor of the same socket
	return &parked{l: l, s: s, fd: fd, slot: -1}
}

// loopFor chooses a loop, and starts them all for the first socket.
func (g *Gateway) loopFor() *loop {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	if g.loops == nil {
		g.loops = new(loops)
		for range runtime.GOMAXPROCS(0) {
			l, err := newLoop(g)
			if err != nil {
				g.log.Error("sockets cannot be parked", "error", err)
				break
			}
			g.loops.all = append(g.loops.all, l)
			go l.run()
		}
	}
	if len(g.loops.all) == 0 {
		return nil
	}
	return g.loops.all[int(g.loops.next.Add(1))%len(g.loops.all)]
}

func newLoop(g *Gateway) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // tells os.NewFile that it can be polled
		return nil, errors.Join(fmt.Errorf("make an epoll: %w", err), unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetReadDeadline(time.Time{}) // fails if Go's poller does not watch it
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch an epoll: %w", err), file.Close())
	}
	return &loop{
		g: g, file: file, raw: raw, epoll: fd, over: make(chan struct{}), tick: never,
		events: make([]unix.EpollEvent, loopEvents), in: make([]byte, loopReadBytes), out: make([]byte, 0, writeBatchBytes),
	}, nil
}

// stop ends the loops, whose sessions are all over, and waits for them.
func (ls *loops) stop() {
	if ls == nil {
		return
	}
	for _, l := range ls.all {
		l.mu.Lock()
		l.stopping = true
		l.mu.Unlock()
		l.wake()
	}
	for _, l := range ls.all {
		<-l.over
	}
}

// wake ends the loop's sleep, if it sleeps.
func (l *loop) wake() {
	if l.asleep.CompareAndSwap(true, false) {
		_ = l.file.SetReadDeadline(longAgo) // costs no system call; fails only after the end
	}
}

func (p *parked) kick() {
	l := p.l
	l.mu.Lock()
	l.dirty = append(l.dirty, p)
	l.mu.Unlock()
	l.wake()
}

func (p *parked) start() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.s.kickLocked()
}

func (p *parked) refuse(frame []byte) {
	_, _ = unix.Write(p.fd, frame) // best effort before closing
	_ = unix.Close(p.fd)
}

// run is the loop: hear which sockets have something, read it, then give every
// session that asked for it a turn to write.
func (l *loop) run() {
	defer close(l.over)
	defer l.file.Close()
	for {
		n := l.poll()
		if n == 0 && l.idle() {
			n = l.sleep()
		}
		now := l.g.uptime()
		for i := range l.events[:n] {
			l.ready(&l.events[i], now)
		}
		if l.serve(now) {
			return
		}
		if now >= l.tick {
			l.sweep(now)
		}
	}
}

// poll asks for events and does not wait.
func (l *loop) poll() int {
	for {
		n, err := unix.EpollWait(l.epoll, l.events, 0)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0) // fails for bad arguments only
		}
	}
}

func (l *loop) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.dirty) == 0 && !l.stopping
}

// sleep waits for events, a kick or the tick. A kick ends it by the file's
// deadline: that is a word to Go's scheduler and not a system call.
func (l *loop) sleep() (n int) {
	if l.rearm || len(l.resting) > 0 {
		next := l.tick
		if len(l.resting) > 0 {
			next = min(next, l.restUntil)
		}
		until := time.Time{}
		if next != never {
			until = l.g.birth.Add(next)
		}
		if err := l.file.SetReadDeadline(until); err == nil {
			l.rearm = len(l.resting) > 0 // the next sleep has another deadline
		}
	}
	l.asleep.Store(true)
	if l.idle() { // asked again: who kicked before saw us awake
		err := l.raw.Read(func(uintptr) bool { n = l.poll(); return n != 0 })
		l.rearm = l.rearm || err != nil
	}
	if !l.asleep.Swap(false) {
		l.rearm = true // someone has set, or is about to set, the deadline
	}
	return n
}

// ready handles one event.
func (l *loop) ready(e *unix.EpollEvent, now time.Duration) {
	if int(e.Fd) >= len(l.slots) {
		return
	}
	at := l.slots[e.Fd]
	if at.p == nil || at.gen != e.Pad {
		return // it was for who had the slot before
	}
	p := at.p
	if e.Events&unix.EPOLLOUT != 0 {
		p.stuck = false
		p.ask()
	}
	if e.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	p.s.resume(now)
	switch {
	case e.Events&unix.EPOLLIN != 0 && !p.deaf():
		p.read(now)
	case e.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0:
		p.s.ended(io.EOF, now) // both directions are over, and nothing of it will be read
	default:
		p.full = true
		p.watch()
	}
}

// deaf: what comes must wait, or does not matter any more.
func (p *parked) deaf() bool {
	return p.s.stalled || p.s.endErr != nil && p.s.deaf()
}

// ask gives the session a turn at the end of this round.
func (p *parked) ask() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.s.kickLocked()
}

// read reads once. What does not fit is heard of again.
func (p *parked) read(now time.Duration) {
	for {
		n, err := unix.Read(p.fd, p.l.in)
		switch {
		case err == nil && n > 0:
			p.s.receive(p.l.in[:n], now)
		case err == nil:
			p.s.ended(io.EOF, now)
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
		default:
			p.s.ended(fmt.Errorf("read: %w", err), now)
		}
		return
	}
}

// serve gives a turn to who asked for one; true when the loop is over.
func (l *loop) serve(now time.Duration) bool {
	l.mu.Lock()
	list := l.dirty
	l.dirty = l.spare[:0]
	stop := l.stopping && len(list) == 0
	l.mu.Unlock()
	l.writes = 0
	for i, p := range list {
		l.turn(p, now)
		list[i] = nil
	}
	l.spare = list
	if len(l.resting) > 0 && now >= l.restUntil {
		l.serveRested(now)
	}
	if l.writes >= loopCrowd {
		l.restUntil = now + loopRest
	}
	return stop
}

// serveRested gives their turn to those whose rest is over.
func (l *loop) serveRested(now time.Duration) {
	list := l.resting
	l.resting = l.rested[:0]
	for i, p := range list {
		p.resting = false
		l.turn(p, now)
		list[i] = nil
	}
	l.rested = list
}

// rest puts the session's write off, if it can wait.
func (p *parked) rest(now time.Duration) bool {
	if now >= p.l.restUntil || !p.s.onlyEventsLocked() {
		return false
	}
	p.s.dirty, p.s.resting = true, true // more events need not ask
	if !p.resting {
		p.resting = true
		p.l.resting = append(p.l.resting, p)
	}
	return true
}

// turn does all that a session can do now without waiting.
func (l *loop) turn(p *parked, now time.Duration) {
	if p.released {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			l.g.panicked("serve a socket", r)
			p.s.abort() // the next turn lets go of it
		}
	}()
	s := p.s
	if p.slot < 0 {
		l.admit(p)
	}
	for {
		s.startReady()
		s.resume(now)
		p.flush(now)
		if !s.stalled {
			break
		}
		s.mu.Lock()
		blocked := s.blockedLocked()
		s.mu.Unlock()
		if blocked {
			break
		}
	}
	if !s.stalled {
		p.full = false
	}
	s.mu.Lock()
	done, due := s.doneLocked(now), s.dueLocked()
	if s.peerDone {
		p.full = true // what still comes is not read
	}
	s.mu.Unlock()
	if done {
		l.release(p)
		return
	}
	p.watch()
	l.slots[p.slot].due = due
}

// admit begins to watch a session's descriptor.
func (l *loop) admit(p *parked) {
	if len(l.free) == 0 {
		l.free = append(l.free, uint32(len(l.slots)))
		l.slots = append(l.slots, slot{})
	}
	last := len(l.free) - 1
	p.slot = int(l.free[last])
	l.free = l.free[:last]
	l.slots[p.slot].p, l.slots[p.slot].due = p, never
	if l.open++; l.open == 1 {
		l.tick, l.rearm = l.g.uptime()+l.g.tickEvery(), true
	}
	p.interest = unix.EPOLLIN
	if err := l.control(unix.EPOLL_CTL_ADD, p); err != nil {
		p.s.ended(fmt.Errorf("watch: %w", err), l.g.uptime())
	}
}

func (l *loop) control(op int, p *parked) error {
	return unix.EpollCtl(l.epoll, op, p.fd, &unix.EpollEvent{Events: p.interest, Fd: int32(p.slot), Pad: l.slots[p.slot].gen})
}

// watch tells the system what to say of a session, if that has changed.
func (p *parked) watch() {
	want := uint32(0)
	if !p.full {
		want |= unix.EPOLLIN
	}
	if p.stuck {
		want |= unix.EPOLLOUT
	}
	if want == p.interest {
		return
	}
	p.interest = want
	if err := p.l.control(unix.EPOLL_CTL_MOD, p); err != nil {
		p.s.abort()
	}
}

// release lets go of a session: from here its descriptor is someone else's.
func (l *loop) release(p *parked) {
	p.released = true
	at := &l.slots[p.slot]
	_ = l.control(unix.EPOLL_CTL_DEL, p) // closing does the same
	_ = unix.Close(p.fd)
	at.p, at.due = nil, never
	at.gen++
	l.free = append(l.free, uint32(p.slot))
	if l.open--; l.open == 0 {
		l.tick, l.rearm = never, true
	}
	p.s.over()
}

// flush writes what waits, as far as the system takes it.
func (p *parked) flush(now time.Duration) {
	if p.stuck {
		return
	}
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.rest(now) {
		return
	}
	for turn := 0; ; turn++ {
		n, size := s.gatherLocked()
		if n == 0 {
			s.stuckSince = 0
			return
		}
		if turn == loopWrites {
			s.kickLocked() // the others first
			return
		}
		data := s.queue[0].data[s.sent:]
		if n > 1 {
			data = append(p.l.out[:0], data...)
			for _, f := range s.queue[1:n] {
				data = append(data, f.data...)
			}
		}
		s.mu.Unlock()
		wrote, err := write(p.fd, data)
		s.g.metrics.writes.Inc()
		p.l.writes++
		s.mu.Lock()
		if wrote > 0 {
			s.advanceLocked(wrote, now)
			s.stuckSince = 0
		}
		switch {
		case err != nil && !errors.Is(err, unix.EAGAIN):
			s.abortLocked()
			return
		case wrote < size:
			p.stuck = true
			if s.stuckSince == 0 {
				s.stuckSince = now
			}
			return
		}
	}
}

// write writes what the system takes.
func write(fd int, data []byte) (int, error) {
	for {
		n, err := unix.Write(fd, data)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// sweep gives every session that is due what it is due.
func (l *loop) sweep(now time.Duration) {
	l.tick, l.rearm = now+l.g.tickEvery(), true
	for i := range l.slots {
		if p := l.slots[i].p; p != nil && l.slots[i].due <= now {
			p.s.tick(now)
			l.turn(p, now)
		}
	}
}

// tickEvery is shorter where a test has less patience.
func (g *Gateway) tickEvery() time.Duration {
	return min(loopTick, g.patience.hello/4, g.patience.silence/4, g.patience.write/4, g.patience.close/4)
}
