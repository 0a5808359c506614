//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// cores is where things run: the measured process on one core, clients and
// upstream on another, so that neither takes the other's time.
type cores struct {
	target, load int
	pinned       bool
}

const pinnedEnv = "WSBOUNCER_BENCH_CORES"

// pin moves this process onto one core and names another for what is measured.
// An affinity is a thread's own, and threads inherit it: so the process sets it
// on one thread and replaces itself by itself. GOMAXPROCS is raised, because a
// loop that waits in epoll_wait would otherwise keep the only P for a while.
func pin() (cores, error) {
	if v := os.Getenv(pinnedEnv); v != "" {
		var c cores
		_, err := fmt.Sscanf(v, "%d,%d", &c.target, &c.load)
		c.pinned = c.target >= 0
		return c, err
	}
	value := "-1,-1"
	if allowed := affinity(); len(allowed) >= 2 {
		runtime.LockOSThread()
		if err := setAffinity(allowed[1]); err != nil {
			return cores{}, err
		}
		value = fmt.Sprintf("%d,%d", allowed[0], allowed[1])
	}
	self, err := os.Executable()
	if err != nil {
		return cores{}, err
	}
	env := append(os.Environ(), pinnedEnv+"="+value, "GOMAXPROCS=4")
	return cores{}, syscall.Exec(self, os.Args, env)
}

type cpuSet [1024 / 64]uint64

func affinity() (allowed []int) {
	var set cpuSet
	if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set))); e != 0 {
		return nil
	}
	for i := range len(set) * 64 {
		if set[i/64]&(1<<(i%64)) != 0 {
			allowed = append(allowed, i)
		}
	}
	return allowed
}

func setAffinity(core int) error {
	var set cpuSet
	set[core/64] |= 1 << (core % 64)
	if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set))); e != 0 {
		return fmt.Errorf("sched_setaffinity: %w", e)
	}
	return nil
}

// start starts a child on the target's core, from its first instruction: a Go
// program counts its cores then.
func (c cores) start(cmd *exec.Cmd) error {
	if !c.pinned {
		return cmd.Start()
	}
	cmd.Env = slicesWithout(os.Environ(), "GOMAXPROCS=", pinnedEnv+"=")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := setAffinity(c.target); err != nil {
		return err
	}
	defer func() { _ = setAffinity(c.load) }()
	return cmd.Start()
}

func slicesWithout(env []string, prefixes ...string) []string {
	var out []string
next:
	for _, e := range env {
		for _, p := range prefixes {
			if strings.HasPrefix(e, p) {
				continue next
			}
		}
		out = append(out, e)
	}
	return out
}

// raiseDescriptors lets this process and its children open what they may.
func raiseDescriptors() (uint64, error) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, err
	}
	r.Cur = r.Max
	return r.Cur, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r)
}

// process is a measured server: the process that was started and, for nginx,
// its worker.
type process struct {
	cmd  *exec.Cmd
	dir  string
	keep bool          // dir
	done chan struct{} // closed when it has ended
	err  error         // then; only the gateway's says anything
}

// command is a child that is asked to end when ctx ends, or this process does:
// killed, nginx would leave its worker behind.
func command(ctx context.Context, name string, arg ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd
}

func (p *process) wait() {
	p.done = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // ended by a signal, as they are
		close(p.done)
	}()
}

// end ends the process, in its own way if it can.
func (p *process) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	var late error
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		late = fmt.Errorf("%s did not end", p.cmd.Path)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	if !p.keep {
		late = errors.Join(late, os.RemoveAll(p.dir))
	}
	return errors.Join(p.err, late)
}

// pids is the process and its children.
func (p *process) pids() []int {
	pid := p.cmd.Process.Pid
	pids := []int{pid}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// cpu is the time on the processor so far: user and system, all threads, also
// those that ended. The process's CPU clock has nanoseconds where /proc has
// hundredths of a second.
func (p *process) cpu() (sum time.Duration) {
	for _, pid := range p.pids() {
		var ts syscall.Timespec
		clock := int32(^pid<<3 | 2) // clock_getcpuclockid(3)
		if _, _, e := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0); e == 0 {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}

// memory is the process's share of memory in bytes (Pss): what it holds
// itself, its code included, without the kernel's socket buffers.
func (p *process) memory() (sum int64) {
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0
		}
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			if rest, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				sum += kb << 10
			}
		}
	}
	return sum
}

// settledMemory waits until the memory stays: a garbage collector gives back
// what the handshakes left over the seconds that follow.
func (b *bench) settledMemory(ctx context.Context, p *process) (int64, error) {
	stays, atMost := 4*time.Second, 20*time.Second
	if b.quick {
		stays, atMost = time.Second, 6*time.Second
	}
	last, since := p.memory(), time.Now()
	for end := time.Now().Add(atMost); time.Now().Before(end) && time.Since(since) < stays; {
		if err := b.l.run(ctx, time.Now().Add(500*time.Millisecond), nil); err != nil {
			return 0, err
		}
		now := p.memory()
		if d := now - last; d < -last/200 || d > last/200 {
			last, since = now, time.Now()
		}
	}
	if last = p.memory(); last == 0 {
		return 0, errors.New("/proc says nothing of its memory")
	}
	return last, nil
}
