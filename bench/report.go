//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// figure is one measured thing. Its target is a share of HAProxy's, or a
// number of its own.
type figure struct {
	Name     string               `json:"figure"`
	Unit     string               `json:"unit"`
	Measured map[string][]float64 `json:"measured"` // by server, a value for each round
	Median   map[string]float64   `json:"median"`
	Ratio    []float64            `json:"ratio,omitempty"` // wsbouncer's to HAProxy's: least, median and largest of the rounds'
	OfPeer   float64              `json:"to_reach_ratio,omitempty"`
	AtMost   float64              `json:"to_reach,omitempty"`
	Reached  *bool                `json:"reached,omitempty"`
}

type report struct {
	Date    time.Time `json:"date"`
	Commit  string    `json:"commit"`
	Notes   []string  `json:"notes"`
	Figures []*figure `json:"figures"`
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// begin says what is measured with what, and finds the peers.
func (r *report) begin(b *bench, peers string) {
	r.Date = time.Now().UTC().Truncate(time.Second)
	r.Commit = "unknown"
	if out, err := exec.Command(b.binary, "version").Output(); err == nil {
		r.Commit, _, _ = strings.Cut(string(out), "\n")
	}
	r.note("%s; %s", r.Date.Format("2006-01-02 15:04 MST"), r.Commit)
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	r.note("machine: %s, %s cores, %s of memory; Linux %s, %s %s/%s; load at the start %s", field("/proc/cpuinfo", "model name"),
		field("/proc/cpuinfo", "siblings"), field("/proc/meminfo", "MemTotal"), strings.TrimSpace(string(kernel)), runtime.Version(), runtime.GOOS, runtime.GOARCH, loadAverage())
	if b.cores.pinned {
		r.note("measured servers on core %d (wsbouncer therefore with GOMAXPROCS 1, the others with one worker), clients and upstream on core %d", b.cores.target, b.cores.load)
	} else {
		r.note("one core only: nothing is pinned, and clients and upstream take the measured servers' time")
	}
	if b.quick {
		r.note("quick: few rounds and connections; for a first look only")
	}
	packages := map[string]string{"haproxy": "haproxy", "nginx": "nginx-light"}
	for _, name := range strings.FieldsFunc(peers, func(c rune) bool { return c == ',' }) {
		path, err := exec.LookPath(name)
		if err != nil {
			path, err = exec.LookPath("/usr/sbin/" + name)
		}
		if err != nil {
			r.note("%s is not installed and left out (Debian: apt-get install %s)", name, packages[name])
			continue
		}
		b.peers[name] = path
		out, _ := exec.Command(path, "-v").CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		r.note("%s: %s", name, strings.TrimSpace(first))
	}
	r.note("each server was seen to refuse no token, an expired one, wrong signatures and alg none before it was measured")
	r.note("logs as in production: wsbouncer's lines on stderr, HAProxy's httplog to a socket, both read and thrown away; nginx's access log to a file; limits are raised so that the load is not refused")
}

func (r *report) end() {
	r.note("took %.0f s; load at the end %s", time.Since(r.Date).Seconds(), loadAverage())
	for _, f := range r.Figures {
		f.settle()
	}
}

// field is the first value of a name in one of /proc's lists.
func field(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return name + " unknown"
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// figure is the one of that name.
func (r *report) figure(name, unit string) *figure {
	for _, f := range r.Figures {
		if f.Name == name {
			return f
		}
	}
	f := &figure{Name: name, Unit: unit, Measured: map[string][]float64{}}
	r.Figures = append(r.Figures, f)
	return f
}

func (f *figure) add(server string, v float64) { f.Measured[server] = append(f.Measured[server], v) }

// late reports sorted delays in three figures; the quantile that counts must be
// at most so many milliseconds.
func (r *report) late(name, server string, d []time.Duration, counts, atMost float64) {
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", .5}, {"p99", .99}, {"the last", 1}} {
		f := r.figure(name+", "+q.name, "ms")
		if q.at == counts {
			f.AtMost = atMost
		}
		f.add(server, quantile(d, q.at))
	}
}

func (f *figure) settle() {
	f.Median, f.Ratio, f.Reached = map[string]float64{}, nil, nil
	for server, vs := range f.Measured {
		f.Median[server] = median(vs)
	}
	own, ok := f.Median["wsbouncer"]
	if !ok {
		return
	}
	reached := func(is bool) { f.Reached = &is }
	if f.Ratio = ratios(f.Measured["wsbouncer"], f.Measured["haproxy"]); f.Ratio != nil && f.OfPeer > 0 {
		reached(f.Ratio[1] <= f.OfPeer)
	}
	if f.AtMost > 0 {
		reached(own <= f.AtMost)
	}
}

// ratios divides round by round, since what disturbs a round disturbs both.
func ratios(own, peer []float64) []float64 {
	var each []float64
	for i := range min(len(own), len(peer)) {
		if own[i] > 0 && peer[i] > 0 {
			each = append(each, own[i]/peer[i])
		}
	}
	if each == nil {
		return nil
	}
	return []float64{slices.Min(each), median(each), slices.Max(each)}
}

func median(vs []float64) float64 {
	s := slices.Sorted(slices.Values(vs))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func (r *report) json(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644) //nolint:gosec // nothing in it is secret
}

// show prints the table of a run that was written.
func show(path string, w io.Writer) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, f := range r.Figures {
		f.settle()
	}
	return r.table(w)
}

var columns = []string{"wsbouncer", "haproxy", "nginx", "direct"}

// table prints Markdown that can also be read as it is.
func (r *report) table(w io.Writer) error {
	for _, n := range r.Notes {
		fmt.Fprintln(w, "-", n)
	}
	rows := [][]string{slices.Concat([]string{"figure", "unit"}, columns, []string{"ratio", "to reach", "reached"})}
	for _, f := range r.Figures {
		row := []string{f.Name, f.Unit}
		for _, server := range columns {
			cell := "–"
			if v, ok := f.Median[server]; ok {
				cell = short(v)
			}
			row = append(row, cell)
		}
		ratio, reach, reached := "", "", ""
		if f.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", f.Ratio[1])
			if f.Ratio[0] != f.Ratio[2] {
				ratio += fmt.Sprintf(" (%.2f–%.2f)", f.Ratio[0], f.Ratio[2])
			}
		}
		switch {
		case f.OfPeer > 0:
			reach = fmt.Sprintf("≤ %.2f ×", f.OfPeer)
		case f.AtMost > 0:
			reach = "≤ " + short(f.AtMost)
		}
		if f.Reached != nil {
			reached = map[bool]string{true: "yes", false: "NO"}[*f.Reached]
		}
		rows = append(rows, append(row, ratio, reach, reached))
	}
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell), 3)
		}
	}
	var out strings.Builder
	for n, row := range rows {
		out.WriteString("\n|")
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				cell += pad
			} else {
				cell = pad + cell
			}
			out.WriteString(" " + cell + " |")
		}
		if n == 0 {
			out.WriteString("\n|")
			for i := range row {
				if i < 2 {
					out.WriteString(strings.Repeat("-", width[i]+2) + "|")
				} else {
					out.WriteString(strings.Repeat("-", width[i]+1) + ":|")
				}
			}
		}
	}
	_, err := fmt.Fprintln(w, out.String())
	return err
}

// short shows three digits that matter.
func short(v float64) string {
	switch a := max(v, -v); {
	case v == 0:
		return "0"
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// thousands writes 9,000.
func thousands(n int) string {
	s := strconv.Itoa(n)
	if len(s) <= 3 {
		return s
	}
	return s[:len(s)-3] + "," + s[len(s)-3:]
}
