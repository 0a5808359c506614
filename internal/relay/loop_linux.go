//go:build amd64 || arm64 || riscv64

package relay

import (
	"context"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
)

const (
	// loopBuffer is what a loop reads at once; there is one for all its
	// connections.
	loopBuffer = 256 << 10
	// turn is how many buffers of one source are read before others have theirs.
	turn = 4
	// posts is how many connections are looked at before those that are ready
	// have their turn: thousands may end at once.
	posts = 64
	// farewells is how much of what is left of ended connections is done between
	// two looks at the live ones: thousands may end at once, and all the live ones
	// would wait for them.
	farewells = 4
)

// Loops relay connections of plain sockets without goroutines of their own: an
// epoll instance and one goroutine each. Run must run while they are used.
type Loops struct {
	loops []*loop
	next  atomic.Uint32
}

// NewLoops makes n loops. They hold a descriptor each until Run has ended.
func NewLoops(n int) (*Loops, error) {
	ls := &Loops{}
	for range n {
		l, err := newLoop()
		if err != nil {
			for _, l := range ls.loops {
				_ = l.epoll.Close()
			}
			return nil, err
		}
		ls.loops = append(ls.loops, l)
	}
	return ls, nil
}

// Run serves until ctx ends. Connections that are left then are cut.
func (ls *Loops) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, l := range ls.loops {
		wg.Go(func() { l.run(ctx) })
	}
	wg.Wait()
	return nil
}

// loop is one epoll instance. It is itself waited for through the runtime's
// poller, so that no thread blocks in it.
type loop struct {
	epoll *os.File
	raw   syscall.RawConn

	stop chan struct{} // closed at the end

	watching sync.Mutex
	watched  []watched // by descriptor
	turns    int32     // of watched.turn

	// The goroutine's own.
	one    underWay // the write under way, while it does not block
	more   []*pump  // have had their turn, and have more to read
	had    []*pump  // spare for more
	ended  []*Conn  // have something left to do, in turn
	again  bool     // clients may wait to be accepted
	buf    []byte
	events [128]syscall.EpollEvent

	woken atomic.Bool

	mu       sync.Mutex
	posted   []*Conn // to be looked at
	stopping bool
	stopped  bool
}

// A sink is told of a descriptor's events, on the loop's goroutine.
type sink interface {
	event(l *loop, events uint32)
}

// watched is who is told. Events that were waiting already when a descriptor was
// closed and its number given to another socket are of another turn.
type watched struct {
	sink sink
	turn int32
}

// over are the events after which nothing comes.
const over = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR

func newLoop() (*loop, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // so that the runtime polls it
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &loop{epoll: os.NewFile(uintptr(fd), "epoll"), buf: make([]byte, loopBuffer), stop: make(chan struct{})}
	if l.raw, err = l.epoll.SyscallConn(); err == nil {
		err = l.epoll.SetReadDeadline(time.Time{}) // fails where it cannot be polled
	}
	if err != nil {
		_ = l.epoll.Close()
		return nil, err
	}
	return l, nil
}

// deal deals the loops in turn.
func (ls *Loops) deal() *loop { return ls.loops[ls.next.Add(1)%uint32(len(ls.loops))] }

// adopt gives c to a loop if both its sides are plain sockets, whose
// descriptors are then the loop's.
func (ls *Loops) adopt(c *Conn, client, upstream Stream) bool {
	a, b := rawConn(client), rawConn(upstream)
	sa, _ := client.(*Socket)
	sb, _ := upstream.(*Socket)
	if a == nil && sa == nil || b == nil && sb == nil {
		return false
	}
	fa, fb := -1, -1
	var err error
	if a != nil {
		fa, err = duplicate(a)
	}
	if b != nil && err == nil {
		fb, err = duplicate(b)
	}
	if err != nil {
		if fa >= 0 {
			_ = syscall.Close(fa)
		}
		return false
	}
	switch {
	case sa != nil:
		c.loop = sa.loop
	case sb != nil:
		c.loop = sb.loop
	default:
		c.loop = ls.deal()
	}
	c.client.adopt(client, sa, fa)
	c.upstream.adopt(upstream, sb, fb)
	return true
}

// adopt makes the side one of a loop: a copy of its descriptor, or s itself.
func (s *side) adopt(stream Stream, had *Socket, fd int) {
	if had == nil {
		// The runtime's poller forgets the socket with the descriptor it knows.
		_ = stream.Close()
		s.fd = fd
		return
	}
	fd, _ = had.leave() // -1: closed already, so that the loop finds it lost
	if had.loop != s.conn.loop && had.registered {
		had.loop.forget(fd, had)
		_ = had.loop.control(syscall.EPOLL_CTL_DEL, fd, nil)
		had.registered = false
	}
	s.fd, s.socket = fd, had
}

func duplicate(c syscall.RawConn) (fd int, err error) {
	if e := c.Control(func(old uintptr) {
		n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		if fd = int(n); errno != 0 {
			err = errno
		}
	}); e != nil {
		err = e
	}
	return fd, err
}

// post makes the loop look at c. It may be called under any lock of c. After
// the loop's end it does nothing, and says so.
func (l *loop) post(c *Conn) bool {
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return false
	}
	if !c.posted {
		c.posted = true
		l.posted = append(l.posted, c)
	}
	l.mu.Unlock()
	l.wake()
	return true
}

func (l *loop) wake() {
	if !l.woken.Swap(true) {
		_ = l.epoll.SetReadDeadline(past)
	}
}

func (l *loop) run(ctx context.Context) {
	cancel := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		l.stopping = true
		l.mu.Unlock()
		l.wake()
	})
	defer cancel()
	var posted []*Conn
	for {
		_ = l.raw.Read(l.serve) // until somebody wakes it
		_ = l.epoll.SetReadDeadline(time.Time{})
		l.woken.Store(false) // who posts from now on wakes it again
		l.mu.Lock()
		stopped := l.stopping
		n := len(l.posted)
		if !stopped {
			n = min(n, posts)
		}
		posted = append(posted[:0], l.posted[:n]...)
		l.posted = slices.Delete(l.posted, 0, n)
		for _, c := range posted {
			c.posted = false
		}
		l.stopped = stopped
		if len(l.posted) > 0 {
			l.woken.Store(true) // look at them after one round of what is ready
		}
		l.mu.Unlock()
		for _, c := range posted {
			switch {
			case stopped:
				l.check(c)
				l.kill(c)
			case c.added && c.parting.Load():
				c.look = true
				l.farewell(c)
			default:
				l.check(c)
			}
		}
		clear(posted)
		if stopped {
			break
		}
	}
	close(l.stop)
	l.watching.Lock()
	all := l.watched
	l.watched = nil
	l.watching.Unlock()
	for _, w := range all {
		if p, ok := w.sink.(*pump); ok {
			l.kill(p.c)
		}
	}
	_ = l.epoll.Close()
}

// serve handles what is ready; false: nothing more is, wait.
func (l *loop) serve(epoll uintptr) bool {
	for rounds := 1; ; rounds++ {
		l.again = false
		n, err := syscall.EpollWait(int(epoll), l.events[:], 0)
		if err == syscall.EINTR {
			continue
		}
		for i := range max(n, 0) {
			l.event(&l.events[i])
		}
		l.goOn()
		switch {
		case l.woken.Load():
			return true
		case n < len(l.events) && len(l.more) == 0 && len(l.ended) == 0 && !l.again:
			return false
		case len(l.ended) > 0 || rounds%16 == 0:
			runtime.Gosched() // the poller's other customers have their turn, too
		}
	}
}

// farewell puts c among the ended connections that have something left to do.
func (l *loop) farewell(c *Conn) {
	if !c.waits {
		c.waits = true
		l.ended = append(l.ended, c)
	}
}

func (l *loop) event(e *syscall.EpollEvent) {
	l.watching.Lock()
	var s sink
	if fd := int(e.Fd); fd < len(l.watched) && l.watched[fd].turn == e.Pad {
		s = l.watched[fd].sink
	}
	l.watching.Unlock()
	if s != nil { // not closed meanwhile
		s.event(l, e.Events)
	}
}

// event implements sink.
func (p *pump) event(l *loop, events uint32) {
	if p.c.parting.Load() {
		p.events |= events
		l.farewell(p.c)
		return
	}
	l.happened(p, events)
}

func (l *loop) happened(p *pump, events uint32) {
	if events&over != 0 {
		p.over = true
	}
	if events&(syscall.EPOLLOUT|over) != 0 {
		l.writable(p)
	}
	if events&(syscall.EPOLLIN|over) != 0 {
		l.readable(p)
	}
}

// handOver makes to the one that is told of fd's events instead of from.
func (l *loop) handOver(fd int, from, to sink) {
	l.watching.Lock()
	defer l.watching.Unlock()
	if fd >= 0 && fd < len(l.watched) && l.watched[fd].sink == from {
		l.watched[fd].sink = to
	}
}

// forget makes s not be told of fd's events any more.
func (l *loop) forget(fd int, s sink) {
	l.watching.Lock()
	defer l.watching.Unlock()
	if fd >= 0 && fd < len(l.watched) && l.watched[fd].sink == s {
		l.watched[fd].sink = nil
	}
}

// watch registers a socket, for the edges of everything.
func (l *loop) watch(fd int, s sink) error {
	return l.register(fd, s, syscall.EPOLLIN|syscall.EPOLLOUT|syscall.EPOLLRDHUP|edgeTriggered)
}

// watchListener registers a socket that clients are accepted from.
func (l *loop) watchListener(fd int, s sink) error {
	return l.register(fd, s, syscall.EPOLLIN)
}

func (l *loop) register(fd int, s sink, events uint32) error {
	if fd < 0 {
		return syscall.EBADF
	}
	l.watching.Lock()
	for fd >= len(l.watched) {
		l.watched = append(l.watched, make([]watched, max(64, len(l.watched)/4))...)
	}
	l.turns++
	turn := l.turns
	l.watched[fd] = watched{s, turn}
	l.watching.Unlock()
	return l.control(syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd), Pad: turn})
}

// goOn gives those another turn that have more to read.
func (l *loop) goOn() {
	l.more, l.had = l.had[:0], l.more
	for i, p := range l.had {
		l.had[i] = nil
		p.queued = false
		l.readable(p)
	}
	n := min(len(l.ended), farewells)
	for i, c := range l.ended[:n] {
		l.ended[i] = nil
		c.waits = false
		if c.look {
			c.look = false
			l.check(c)
		}
		for _, p := range [...]*pump{&c.up, &c.down} {
			events := p.events
			if p.events = 0; events != 0 && !p.src.isClosed() {
				l.happened(p, events)
			}
		}
	}
	if l.ended = l.ended[n:]; len(l.ended) == 0 {
		l.ended = nil
	}
}

// readable reads the source for a turn, or until nothing is there, or until the
// other side takes no more: then writable goes on.
func (l *loop) readable(p *pump) {
	if p.gone {
		p.c.tidy() // it may have closed
		return
	}
	p.pending = true
	for range turn {
		if !p.draining && p.dst.blocked() {
			return
		}
		l.read(p)
		if p.gone || !p.pending {
			return
		}
	}
	if !p.queued {
		p.queued = true
		l.more = append(l.more, p)
	}
}

func (l *loop) read(p *pump) {
	k := copy(l.buf, p.held)
	n, err := sysRead(p.src.fd, l.buf[k:])
	switch {
	case n > 0:
		p.held = nil
		if n < len(l.buf)-k {
			p.pending = p.over // else it was emptied, and the next byte is an event
		}
		if !p.take(l.buf[:k+n], n) {
			l.leave(p)
		}
	case err == syscall.EINTR:
	case err == syscall.EAGAIN:
		p.pending = false
	default:
		p.src.abandon()
		l.leave(p)
	}
}

// writable goes on with what a side did not take at once, and then with
// reading what is to follow it.
func (l *loop) writable(p *pump) {
	s, w := p.src, p.opposite()
	if r, moved := s.flush(); moved {
		w.after(r)
	}
	if w.gone {
		end, closeBy := w.c.ending()
		s.settle(end, closeBy, true)
	}
	w.c.tidy()
	if w.pending {
		l.readable(w)
	}
}

// leave is pump.leave, and both descriptors' end when nothing is left to do.
func (l *loop) leave(p *pump) {
	if p.gone {
		return
	}
	p.gone, p.pending = true, false
	p.leave()
}

// check looks at everything that has a time, or that somebody asked for.
func (l *loop) check(c *Conn) {
	if c.over {
		return
	}
	if !c.added {
		l.add(c)
	}
	now := time.Now()
	at := clock(now)
	end, closeBy := c.ending()
	over := !end.IsZero() && !now.Before(closeBy)
	for _, p := range [...]*pump{&c.up, &c.down} {
		if p.gone {
			continue
		}
		if over || p.src.lost(at) {
			p.src.abandon()
			l.leave(p)
			continue
		}
		if p.dst.late(at) {
			p.after(slow)
		}
		end, closeBy = c.ending()
		p.dst.settle(end, closeBy, false)
		if b, mid := p.dst.due(); len(b) > 0 {
			p.send(b, 0, mid)
		}
		if p.pending {
			l.readable(p)
		}
	}
	next := int64(0)
	for _, s := range [...]*side{&c.client, &c.upstream} {
		if t := s.deadline(at, over); t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	if end, closeBy := c.ending(); !end.IsZero() && now.Before(closeBy) {
		if t := clock(closeBy); next == 0 || t < next {
			next = t
		}
	}
	c.tidy()
	if next != 0 && !c.over {
		c.wakeAt(epoch.Add(time.Duration(next)))
	}
}

// add registers what is not yet.
func (l *loop) add(c *Conn) {
	c.added = true
	for _, p := range [...]*pump{&c.up, &c.down} {
		s := p.src.socket
		p.src.socket = nil
		if s == nil || p.src.isClosed() {
			continue
		}
		l.handOver(p.src.fd, s, p)
		// What came until now it was told.
		p.pending, p.over = s.ready.Load(), s.over.Load()
		p.registered = s.registered
	}
	for _, p := range [...]*pump{&c.up, &c.down} {
		if !p.begin() {
			l.leave(p)
		}
	}
	for _, p := range [...]*pump{&c.up, &c.down} {
		if p.registered || p.src.isClosed() {
			continue
		}
		p.registered = true
		if l.watch(p.src.fd, p) != nil {
			p.src.sever()
		}
	}
}

// edgeTriggered is EPOLLET, which is a negative constant in package syscall.
const edgeTriggered = 1 << 31

func (l *loop) control(op, fd int, e *syscall.EpollEvent) error {
	var err error
	if e := l.raw.Control(func(epoll uintptr) { err = syscall.EpollCtl(int(epoll), op, fd, e) }); e != nil {
		return e
	}
	return err
}

// kill cuts a connection at the loop's end.
func (l *loop) kill(c *Conn) {
	if c.over {
		return
	}
	c.finish(reason.Restarting, Gateway)
	for _, p := range [...]*pump{&c.up, &c.down} {
		p.src.abandon()
	}
	for _, p := range [...]*pump{&c.up, &c.down} {
		l.leave(p)
	}
	c.tidy()
}

// tidy closes what is done, and ends the connection when both sides are closed.
func (c *Conn) tidy() {
	c.client.closeIfDone()
	c.upstream.closeIfDone()
	c.left()
}

// leftLoop is left in a loop.
func (c *Conn) leftLoop() {
	if c.over || !c.up.gone || !c.down.gone || !c.client.isClosed() || !c.upstream.isClosed() {
		return
	}
	c.over = true
	c.stopIdle()
	c.mu.Lock()
	if c.alarm != nil {
		c.alarm.timer.Stop()
	}
	c.mu.Unlock()
	if c.onEnd != nil {
		end, _ := c.ending()
		c.onEnd(end, c.Stats())
	}
}

// wakeAt makes the loop look at c at t, or earlier.
func (c *Conn) wakeAt(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeAtLocked(t)
}

func (c *Conn) wakeAtLocked(t time.Time) {
	if c.alarm == nil {
		c.alarm = &alarm{time.AfterFunc(time.Until(t), c.ring), t}
		return
	}
	if !c.alarm.at.IsZero() && !t.Before(c.alarm.at) {
		return
	}
	c.alarm.at = t
	c.alarm.timer.Reset(time.Until(t))
}

func (c *Conn) ring() {
	c.mu.Lock()
	c.alarm.at = time.Time{}
	c.mu.Unlock()
	c.loop.post(c)
}
