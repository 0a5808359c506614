package policy_test

import (
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/policy"
)

var values = map[string]string{"claims.tenant": "42", "subject": "ann", "claims.star": "a*", "claims.slash": "a/b", "claims.wild": "#"}

func value(name string) string { return values[name] }

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, target string
		filters, want   bool
	}{
		{"a", "a", false, true}, {"a", "b", false, false}, {"a", "a/b", false, false}, {"a/b", "a", false, false}, {"a/b", "a/b", false, true},
		{"a/", "a/", false, true}, {"a/", "a", false, false}, {"/a", "a", false, false}, {"/a", "/a", false, true},
		{"a/+", "a/b", false, true}, {"a/+", "a/", false, true}, {"a/+", "a", false, false}, {"a/+", "a/b/c", false, false}, {"+/b", "a/b", false, true},
		{"a/#", "a", false, true}, {"a/#", "a/b/c", false, true}, {"a/#", "ab", false, false}, {"#", "a/b", false, true}, {"**", "", false, true}, {"a/**", "a/b", false, true},
		{"a*", "abc", false, true}, {"a*", "a", false, true}, {"a*", "a/b", false, false}, {"*c", "abc", false, true}, {"a*c*e", "abcde", false, true}, {"a*c*e", "abcd", false, false},
		{"*a*a*", "bab", false, false}, {"*aab", "aaab", false, true}, {"get*", "getUser", false, true}, {"$SYS/x", "$SYS/x", false, true},
		{"tenants/${claims.tenant}/#", "tenants/42/x", false, true}, {"tenants/${claims.tenant}/#", "tenants/43/x", false, false}, {"tenants/${claims.tenant}/#", "tenants/42", false, true},
		{"u-${subject}", "u-ann", false, true}, {"u-${subject}*", "u-annex", false, true}, {"u-${subject}", "u-anna", false, false},
		{"t/${claims.none}/#", "t//x", false, false}, {"t/${claims.star}", "t/a*", false, false}, {"t/${claims.slash}", "t/a/b", false, false}, {"t/${claims.wild}", "t/#", false, false},

		// Filters: all that they ask for must be covered.
		{"a/#", "a/+", true, true}, {"a/#", "a/#", true, true}, {"a/#", "#", true, false}, {"a/#", "+/b", true, false}, {"a/+", "a/+", true, true}, {"a/+", "a/#", true, false},
		{"a/+/c", "a/+/c", true, true}, {"a/b", "a/+", true, false}, {"+", "#", true, false}, {"#", "#", true, true}, {"a/b*", "a/+", true, false}, {"+/#", "+/#", true, true}, {"+/#", "#", true, false},
		{"tenants/${claims.tenant}/#", "tenants/+/x", true, false}, {"tenants/${claims.tenant}/#", "tenants/42/#", true, true}, {"tenants/${claims.tenant}/#", "tenants/#", true, false},
		{"#", "$SYS/#", true, false}, {"+/x", "$SYS/x", true, false}, {"*", "$SYS", true, false}, {"$SYS/#", "$SYS/#", true, true}, {"*S/x", "$S/x", true, false}, {"${subject}/x", "$S/x", true, false},
		{"a/+", "a/b", true, true}, {"a/+/#", "a/#", true, false},
	} {
		p, err := policy.ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(c.target, c.filters, value); got != c.want {
			t.Errorf("%q matches %q (filters %v): %v", c.pattern, c.target, c.filters, got)
		}
	}
	for _, bad := range []string{"", "a/#/b", "a#", "#a", "a+", "${", "${}", "${a b}", "${.a}", "a/**/b", "a**b", "${claims..x}"} {
		if p, err := policy.ParsePattern(bad); err == nil {
			t.Errorf("%q is taken: %v", bad, p)
		}
	}
}

// covers: a pattern that covers a filter matches every topic that the filter
// does, as a broker compares them (MQTT 5.0 §4.7).
func FuzzPatternsCoverFilters(f *testing.F) {
	f.Add("a/+/#", "a/b/+", "a/b/c")
	f.Add("a/#", "+/b", "a/b")
	f.Add("*b/c", "+/c", "ab/c")
	f.Add("#", "#", "$SYS/x")
	f.Fuzz(func(t *testing.T, pattern, filter, topic string) {
		p, err := policy.ParsePattern(pattern)
		if err != nil || len(pattern)+len(filter)+len(topic) > 300 || strings.ContainsAny(topic, "+#") || !isFilter(filter) || !brokerMatches(filter, topic) {
			return
		}
		if p.Match(filter, true, value) && !p.Match(topic, true, value) {
			t.Errorf("%q covers %q, but not %q of it", pattern, filter, topic)
		}
	})
}

func isFilter(f string) bool {
	levels := strings.Split(f, "/")
	for i, l := range levels {
		if strings.ContainsAny(l, "+#") && len(l) > 1 || l == "#" && i < len(levels)-1 {
			return false
		}
	}
	return f != ""
}

func brokerMatches(filter, topic string) bool {
	fs, ts := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (fs[0] == "+" || fs[0] == "#") {
		return false
	}
	for i, l := range fs {
		switch {
		case l == "#":
			return true
		case i >= len(ts) || l != "+" && l != ts[i]:
			return false
		}
	}
	return len(fs) == len(ts)
}
