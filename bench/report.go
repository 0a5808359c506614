//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// figure is one measured thing. Its target is a share of HAProxy's, or a
// number of its own.
type figure struct {
	Name     string               `json:"figure"`
	Unit     string               `json:"unit"`
	Measured map[string][]float64 `json:"measured"` // by server, a value for each round
	OfPeer   float64              `json:"target_ratio,omitempty"`
	AtMost   float64              `json:"target,omitempty"`
	Median   map[string]float64   `json:"median"`
	Ratio    *float64             `json:"ratio,omitempty"` // gateway's to HAProxy's
	Met      *bool                `json:"met,omitempty"`
}

type report struct {
	Notes   []string  `json:"notes"`
	Figures []*figure `json:"figures"`
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
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

func (r *report) settle() {
	for _, f := range r.Figures {
		f.Median = map[string]float64{}
		for server, vs := range f.Measured {
			f.Median[server] = median(vs)
		}
		own, ok := f.Median["gateway"]
		if !ok {
			continue
		}
		if peer, ok := f.Median["haproxy"]; ok && peer > 0 {
			ratio := own / peer
			f.Ratio = &ratio
			if f.OfPeer > 0 {
				met := ratio <= f.OfPeer
				f.Met = &met
			}
		}
		if f.AtMost > 0 {
			met := own <= f.AtMost
			f.Met = &met
		}
	}
}

func median(vs []float64) float64 {
	s := slices.Sorted(slices.Values(vs))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func (r *report) json(w io.Writer) error {
	r.settle()
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) table(w io.Writer) error {
	r.settle()
	for _, n := range r.Notes {
		fmt.Fprintln(w, n)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join([]string{"figure", "unit", "gateway", "haproxy", "nginx", "ratio", "target", "met"}, "\t"))
	for _, f := range r.Figures {
		cells := []string{f.Name, f.Unit}
		for _, server := range []string{"gateway", "haproxy", "nginx"} {
			cell := "-"
			if v, ok := f.Median[server]; ok {
				cell = short(v)
			}
			cells = append(cells, cell)
		}
		ratio, target, met := "", "", ""
		if f.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *f.Ratio)
		}
		switch {
		case f.OfPeer > 0:
			target = fmt.Sprintf("<= %.2fx", f.OfPeer)
		case f.AtMost > 0:
			target = "<= " + short(f.AtMost)
		}
		if f.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*f.Met]
		}
		fmt.Fprintln(t, strings.Join(append(cells, ratio, target, met), "\t"))
	}
	return t.Flush()
}

// short shows three digits that matter.
func short(v float64) string {
	switch a := max(v, -v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
