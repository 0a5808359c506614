package jsonscan_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// RFC 6901 §5.
const pointed = `{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8,
	"deep": {"list": [[], [{"x": [1, 2, {"y": "z"}]}], 2,3,4,5,6,7,8,9,{"ten":true}]}, "\u0066": "escaped"}`

func TestPointers(t *testing.T) {
	want := map[string]string{
		"/foo": `["bar", "baz"]`, "/foo/0": `"bar"`, "/foo/1": `"baz"`, "/": "0", "/a~1b": "1", "/c%d": "2", "/e^f": "3",
		"/g|h": "4", "/i\\j": "5", "/k\"l": "6", "/ ": "7", "/m~0n": "8", "/deep/list/1/0/x/2/y": `"z"`, "/deep/list/0": "[]",
		"/deep/list/10/ten": "true", "/f": `"escaped"`, "": pointed,
		"/foo/2": "", "/foo/-": "", "/foo/00": "", "/foo/01": "", "/foo/+1": "", "/Foo": "", "/deep/list/1/0/x/2/y/0": "", "/foo/0/0": "",
		"/deep/list/010": "", "/deep/list/+10": "",
	}
	var texts []string
	for p := range want {
		texts = append(texts, p)
	}
	ps, err := jsonscan.ParsePointers(texts...)
	if err != nil {
		t.Fatal(err)
	}
	values := make([][]byte, ps.Len())
	if err := ps.Lookup([]byte(pointed), jsonscan.Options{}, values); err != nil {
		t.Fatal(err)
	}
	for i, p := range texts {
		if string(values[i]) != want[p] {
			t.Errorf("%q: %s, want %s", p, values[i], want[p])
		}
	}
	for _, bad := range []string{"foo", "/a~", "/a~2", "#/foo"} {
		if _, err := jsonscan.ParsePointers(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestPointersFindNothingInWhatIsWrong(t *testing.T) {
	ps, err := jsonscan.ParsePointers("/a", "")
	if err != nil {
		t.Fatal(err)
	}
	values := make([][]byte, 2)
	for doc, want := range map[string]error{
		`{"a":1,"a":2}`: jsonscan.ErrDuplicate, `{"a":1}x`: jsonscan.ErrSyntax, `{"a":1`: jsonscan.ErrSyntax, "": jsonscan.ErrSyntax,
		`{"a":"\ud800"}`: jsonscan.ErrUTF8, strings.Repeat("[", 65): jsonscan.ErrDepth, "\ufeff{}": jsonscan.ErrSyntax,
	} {
		if err := ps.Lookup([]byte(doc), jsonscan.Options{}, values); !errors.Is(err, want) || values[0] != nil || values[1] != nil {
			t.Errorf("%q: %v, %q", doc, err, values)
		}
	}
}

// FuzzPointers compares with encoding/json, where what is taken is unambiguous.
func FuzzPointers(f *testing.F) {
	f.Add(pointed, "/foo/0", "/deep/list/1/0/x/2/y")
	f.Add(`[1,[2,{"a":[]}]]`, "/1/1/a", "/0")
	f.Fuzz(func(t *testing.T, doc, one, two string) {
		ps, err := jsonscan.ParsePointers(one, two)
		if err != nil {
			return
		}
		values := make([][]byte, 2)
		if ps.Lookup([]byte(doc), jsonscan.Options{}, values) != nil {
			return
		}
		var v any
		d := json.NewDecoder(strings.NewReader(doc))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%q was taken: %v", doc, err)
		}
		for i, p := range []string{one, two} {
			want, found := walk(v, p)
			if found != (values[i] != nil) {
				t.Fatalf("%q in %q: %q, want %v %v", p, doc, values[i], want, found)
			}
			if !found {
				continue
			}
			a, _ := json.Marshal(want)
			var got any
			d := json.NewDecoder(strings.NewReader(string(values[i])))
			d.UseNumber()
			if err := d.Decode(&got); err != nil {
				t.Fatal(err)
			}
			if b, _ := json.Marshal(got); string(a) != string(b) {
				t.Fatalf("%q in %q: %s, want %s", p, doc, b, a)
			}
		}
	})
}

func walk(v any, pointer string) (any, bool) {
	if pointer == "" {
		return v, true
	}
	for _, step := range strings.Split(pointer[1:], "/") {
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		switch in := v.(type) {
		case map[string]any:
			next, ok := in[step]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			n, err := strconv.Atoi(step)
			if err != nil || strconv.Itoa(n) != step || n < 0 || n >= len(in) {
				return nil, false
			}
			v = in[n]
		default:
			return nil, false
		}
	}
	return v, true
}

func BenchmarkLookup(b *testing.B) {
	doc := []byte(`{"type":"send","id":"01JD8Z3Q7W","room":"tenants/42/lobby","body":"hello over there, this is a message of some length","at":1764028800}`)
	ps, err := jsonscan.ParsePointers("/type", "/room", "/id")
	if err != nil {
		b.Fatal(err)
	}
	values := make([][]byte, ps.Len())
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := ps.Lookup(doc, jsonscan.Options{FoldKeys: true}, values); err != nil {
			b.Fatal(err)
		}
	}
}
