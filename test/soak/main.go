//go:build unix

// Command soak lets the real binary live through what a busy day brings, and
// watches what must always hold (DOS-10). For each way in which a gateway carries
// connections it starts one, with an issuer and a trusted issuer, as a child
// process, and plays everybody else: clients that come by every carrier, talk,
// stop reading, refresh, are revoked, say goodbye or vanish; an echo upstream that
// fails and restarts; an operator who reloads.
//
//	make soak SOAK=2h
//	go run ./test/soak -binary bin/wsbouncer -duration 10m -seed 42
//
// Always: messages come back whole and in order; nobody lives beyond a deadline;
// nothing is carried for what was revoked; nobody is refused who may come in; a
// connection ends in no other way than by what happened to it. Whenever all
// clients are gone, descriptors, goroutines and memory are what they were.
//
// The seed fixes what each client does, not when: load decides that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

type options struct {
	binary   string
	ways     string
	duration time.Duration
	seed     uint64
	clients  int
	burst    int
	memory   int64
	slack    time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/wsbouncer", "the gateway")
	flag.StringVar(&o.ways, "ways", "epoll,goroutine,tls", "gateways to run at once: relay epoll, relay goroutine, TLS to the client")
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "how long clients come and go; the bursts before and after come on top")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "what the clients do")
	flag.IntVar(&o.clients, "clients", 60, "clients at a time, of each gateway")
	flag.IntVar(&o.burst, "burst", 3000, "connections of a burst, of each gateway (two descriptors each; raise ulimit -n for more)")
	flag.Int64Var(&o.memory, "memory", 80, "megabytes by which memory may grow: garbage of a few password hashes, caches that fill up to a bound")
	flag.DurationVar(&o.slack, "slack", 2*time.Second, "what a busy machine may add to a bound of time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ways := strings.Split(o.ways, ",")
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil {
		o.burst = min(o.burst, (int(files.Cur)-1000)/2/len(ways))
	}
	fmt.Printf("soak: -seed %d -duration %v -clients %d -burst %d -ways %s\n", o.seed, o.duration, o.clients, o.burst, o.ways)
	var all []*findings
	var running sync.WaitGroup
	for _, way := range ways {
		found := &findings{way: way, counts: map[string]int{}}
		all = append(all, found)
		running.Go(func() {
			if err := run(ctx, o, found); err != nil {
				found.fault("%v", err)
			}
		})
	}
	running.Wait()
	if wrong := report(os.Stdout, all); wrong > 0 {
		fmt.Fprintf(os.Stderr, "soak: %d findings; again with -seed %d\n", wrong, o.seed)
		os.Exit(1)
	}
}

// run is one gateway's whole day: a burst to know what it holds afterwards, the
// clients' coming and going, another burst, and the comparison.
func run(ctx context.Context, o options, found *findings) (err error) {
	up, err := newUpstream(found, o.seed)
	if err != nil {
		return err
	}
	defer up.close()
	gw, err := startGateway(o, found.way, up.addr)
	if err != nil {
		return err
	}
	defer func() { gw.end(found) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-gw.done:
			cancel(errors.New("the gateway has ended"))
		case <-ctx.Done():
		}
	}()
	defer func() {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	w := newWorld(o, gw, up, found)
	if err := w.open(ctx); err != nil {
		return err
	}
	start, err := gw.quiet(ctx, holding{}, found)
	if err != nil {
		return err
	}
	found.say("at the start:         %v", start)
	var first holding
	for lived := time.Duration(0); ; {
		if err := w.burst(ctx, o.burst); err != nil {
			return err
		}
		after, err := gw.quiet(ctx, start, found)
		if err != nil {
			return err
		}
		found.say("after a burst:        %v", after)
		if first == (holding{}) {
			first = after
		} else {
			gw.compare(after, first, found)
		}
		if lived >= o.duration {
			return nil
		}
		part := min(o.duration-lived, 10*time.Minute)
		lived += part
		if err := w.live(ctx, part); err != nil {
			return err
		}
		some, err := gw.quiet(ctx, start, found)
		if err != nil {
			return err
		}
		found.say("after clients' lives: %v", some)
	}
}
