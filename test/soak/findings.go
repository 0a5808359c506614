//go:build unix

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// findings are what was wrong with one gateway, and how often what happened, so
// that one sees that it did.
type findings struct {
	way string

	mu     sync.Mutex
	wrong  int
	counts map[string]int
	late   []time.Duration // of close frames after a deadline, the last of them
	seen   int
}

// How much of it is printed, and kept.
const (
	printedFaults = 30
	keptLate      = 100_000
)

func (f *findings) fault(format string, args ...any) {
	f.mu.Lock()
	f.wrong++
	n := f.wrong
	f.mu.Unlock()
	if n <= printedFaults {
		f.say("FINDING: "+format, args...)
	}
}

func (f *findings) say(format string, args ...any) {
	fmt.Printf("%s %-9s %s\n", time.Now().Format("15:04:05.000"), f.way, fmt.Sprintf(format, args...))
}

func (f *findings) count(what string) {
	f.mu.Lock()
	f.counts[what]++
	f.mu.Unlock()
}

func (f *findings) expiredLate(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.late) < keptLate {
		f.late = append(f.late, d)
	} else {
		f.late[f.seen%keptLate] = d
	}
	f.seen++
}

// report prints what happened, a column for each gateway, and gives the number of
// all findings. Nobody adds to them any more.
func report(w io.Writer, all []*findings) (wrong int) {
	names := map[string]bool{}
	for _, f := range all {
		for name := range f.counts {
			names[name] = true
		}
	}
	row := func(name string, cell func(f *findings) any) {
		fmt.Fprintf(w, "%-44s", name)
		for _, f := range all {
			fmt.Fprintf(w, " %10v", cell(f))
		}
		fmt.Fprintln(w)
	}
	row("", func(f *findings) any { return f.way })
	for _, name := range slices.Sorted(maps.Keys(names)) {
		row(name, func(f *findings) any { return f.counts[name] })
	}
	for _, f := range all {
		slices.Sort(f.late)
		wrong += f.wrong
	}
	for _, p := range []int{0, 50, 99, 100} {
		row(fmt.Sprintf("closed after a deadline, %d %%", p), func(f *findings) any {
			if len(f.late) == 0 {
				return "-"
			}
			return f.late[(len(f.late)-1)*p/100].Round(time.Millisecond)
		})
	}
	row("findings", func(f *findings) any { return f.wrong })
	return wrong
}
