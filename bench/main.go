// Command bench measures the real binary from outside: it starts a gateway as
// a child process, plays clients and an echo upstream itself, and prints what
// each thing cost, beside a direct connection in the same run.
//
//	make bench                                all of it
//	go run ./bench -binary bin/wsbouncer -only idle,revoke -idle 9000
//
// CPU is the gateway process's own, from /proc; memory is its resident set.
// Figures depend on the machine: look at the ratios.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"
)

type options struct {
	binary     string
	idle       int
	revoked    int
	handshakes int
	messages   int
	active     int
}

func main() {
	var o options
	only := flag.String("only", "handshake,messages,idle,revoke,expiry", "what to measure, separated by commas")
	flag.StringVar(&o.binary, "binary", "bin/wsbouncer", "the gateway to measure")
	flag.IntVar(&o.idle, "idle", 9000, "idle connections (two descriptors each; raise ulimit -n for more)")
	flag.IntVar(&o.revoked, "revoked", 1000, "of them, the revoked subject's")
	flag.IntVar(&o.handshakes, "handshakes", 4000, "handshakes to measure")
	flag.IntVar(&o.messages, "messages", 400_000, "messages to measure")
	flag.IntVar(&o.active, "active", 100, "connections that send them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fmt.Printf("machine: %d cores, %s %s/%s\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if err := run(ctx, o, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, only []string) error {
	want := func(name string) bool { return slices.Contains(only, name) }
	upstream, err := newEcho()
	if err != nil {
		return err
	}
	defer upstream.close()
	for _, m := range []struct {
		name string
		f    func(context.Context, options, *echo, *gateway) error
	}{
		{"handshake", handshakes}, {"messages", messages}, {"idle", idle}, {"expiry", expiry},
	} {
		if !want(m.name) && (m.name != "idle" || !want("revoke")) {
			continue
		}
		gw, err := startGateway(ctx, o.binary, upstream.addr())
		if err != nil {
			return err
		}
		err = m.f(ctx, o, upstream, gw)
		if stopErr := gw.stop(); err == nil {
			err = stopErr
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// quantile is the q-th of sorted durations.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

func spread(d []time.Duration) string {
	slices.Sort(d)
	ms := func(v time.Duration) string { return fmt.Sprintf("%.1f", float64(v.Microseconds())/1000) }
	return fmt.Sprintf("min %s, median %s, p99 %s, max %s ms", ms(d[0]), ms(quantile(d, .5)), ms(quantile(d, .99)), ms(d[len(d)-1]))
}
