package config

import (
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as in Go: 30s, 5m, 720h.
type Duration time.Duration

// D is d as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String is d without the zeros time.Duration ends with: 5m, not 5m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (d *Duration) parse(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30s, 5m or 720h", s)
	}
	if v < 0 {
		return fmt.Errorf("a duration may not be negative")
	}
	*d = Duration(v)
	return nil
}

// Size is a number of bytes, written 16KiB, 1MiB or plain.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func (z Size) String() string {
	for _, u := range sizeUnits {
		if int64(z) >= u.bytes && int64(z)%u.bytes == 0 {
			return strconv.FormatInt(int64(z)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(z), 10)
}

func (z *Size) parse(s string) error {
	num, unit := s, int64(1)
	for _, u := range sizeUnits {
		if t, ok := strings.CutSuffix(s, u.suffix); ok {
			num, unit = strings.TrimSpace(t), u.bytes
			break
		}
	}
	v, err := strconv.ParseInt(num, 10, 64)
	if err != nil || v < 0 || v > math.MaxInt64/unit {
		return fmt.Errorf("%q is not a size such as 16KiB or 1MiB", s)
	}
	*z = Size(v * unit)
	return nil
}

// Rate is so many a second with a burst. It is written {rate: 20/s, burst: 60}
// or, when the burst is what one unit of time allows, 10/m. The unit may be
// bytes: 4MiB/s.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) String() string {
	switch {
	case r.PerSecond == 0:
		return "0/s"
	case r.PerSecond >= 1 && r.PerSecond == math.Trunc(r.PerSecond):
		n := Size(r.PerSecond).String()
		if bare, ok := strings.CutSuffix(n, "B"); ok && !strings.HasSuffix(bare, "i") {
			n = bare
		}
		return n + "/s"
	}
	return strconv.FormatFloat(math.Round(r.PerSecond*60*1000)/1000, 'f', -1, 64) + "/m"
}

func (r *Rate) parse(s string) error {
	bad := fmt.Errorf("%q is not a rate such as 20/s, 10/m or 4MiB/s", s)
	num, unit, ok := strings.Cut(s, "/")
	if !ok {
		return bad
	}
	seconds, ok := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	if !ok {
		return bad
	}
	var n Size
	if n.parse(num) != nil || n == 0 || n > math.MaxInt32 {
		return bad
	}
	r.PerSecond, r.Burst = float64(n)/seconds, int(n)
	return nil
}

// URL is an absolute URL.
type URL struct{ *url.URL }

func (u URL) String() string {
	if u.URL == nil {
		return ""
	}
	return u.URL.Redacted()
}

func (u *URL) parse(s string) error {
	v, err := url.Parse(s)
	if err != nil || v.Scheme == "" || v.Host == "" {
		return fmt.Errorf("%q is not a URL with a scheme and a host", redactURL(s))
	}
	if v.User != nil {
		return fmt.Errorf("a URL here may not hold a user name or password")
	}
	v.Scheme = strings.ToLower(v.Scheme)
	u.URL = v
	return nil
}

// redactURL keeps a mistyped password out of a message.
func redactURL(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		rest = "…" + rest[i:]
	}
	return scheme + "://" + rest
}

// URLs is one URL, or a list of them.
type URLs []URL

func (URLs) oneOrMore() {}

// Names is one name, or a list of them.
type Names []string

func (Names) oneOrMore() {}

// Verbatim is text in which ${NAME} is not the environment's.
type Verbatim string

// Verbatims is one text, or a list of them.
type Verbatims []Verbatim

func (Verbatims) oneOrMore() {}

// Prefix is a network in CIDR notation, or one address.
type Prefix struct{ netip.Prefix }

func (p *Prefix) parse(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		p.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	v, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%q is not a network such as 10.0.0.0/8 or an address", s)
	}
	p.Prefix = v.Masked()
	return nil
}
