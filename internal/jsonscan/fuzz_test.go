package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// FuzzScan holds the scanner against encoding/json: what Valid accepts,
// encoding/json accepts and understands the same; and what Valid refuses as no
// JSON at all, encoding/json refuses too.
func FuzzScan(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d.doc))
	}
	f.Add([]byte(message))
	f.Fuzz(func(t *testing.T, doc []byte) {
		kept := bytes.Clone(doc)
		err := jsonscan.Valid(doc, jsonscan.Options{})
		if !bytes.Equal(doc, kept) {
			t.Fatal("the document was changed")
		}
		var theirs any
		theirErr := json.Unmarshal(doc, &theirs)
		if err != nil {
			if errors.Is(err, jsonscan.ErrSyntax) && theirErr == nil {
				t.Fatalf("refused: %v", err)
			}
			if jsonscan.Valid(doc, jsonscan.Options{FoldKeys: true}) == nil {
				t.Fatal("folding accepts what is refused without")
			}
			return
		}
		if theirErr != nil {
			t.Fatalf("accepted, but encoding/json says %v", theirErr)
		}
		if !utf8.Valid(doc) {
			t.Fatal("accepted invalid UTF-8")
		}
		ours := understand(t, bytes.Trim(doc, " \t\r\n"))
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("understood %#v, encoding/json %#v", ours, theirs)
		}
		if jsonscan.Valid(doc, jsonscan.Options{FoldKeys: true}) == nil {
			distinct(t, theirs)
		}
	})
}

// understand builds what encoding/json would, from Object and String.
func understand(t *testing.T, raw []byte) any {
	switch raw[0] {
	case '{':
		m := map[string]any{}
		if err := jsonscan.Object(raw, jsonscan.Options{}, func(k, v []byte) error {
			if _, ok := m[string(k)]; ok {
				t.Fatalf("key %q twice", k)
			}
			m[string(k)] = understand(t, v)
			found, ok, err := jsonscan.Find(raw, jsonscan.Options{}, string(k))
			if err != nil || !ok || !bytes.Equal(found, v) {
				t.Fatalf("Find %q: %q, %v, %v; Object gave %q", k, found, ok, err, v)
			}
			return nil
		}); err != nil {
			t.Fatalf("Object in a valid document: %v", err)
		}
		return m
	case '[':
		var items []json.RawMessage
		if err := json.Unmarshal(raw, &items); err != nil {
			t.Fatal(err)
		}
		list := make([]any, len(items))
		for i, item := range items {
			list[i] = understand(t, item)
		}
		return list
	case '"':
		s, err := jsonscan.String(raw)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// distinct fails when two keys of an object are equal under folding.
func distinct(t *testing.T, v any) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			distinct(t, item)
		}
	case map[string]any:
		if len(v) > 100 {
			return
		}
		for a, item := range v {
			distinct(t, item)
			for b := range v {
				if a != b && strings.EqualFold(a, b) {
					t.Fatalf("keys %q and %q", a, b)
				}
			}
		}
	}
}

// FuzzDecode: what Decode accepts, encoding/json decodes to the same, and no
// member was taken under another spelling.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"username":"ann","inner":{"room":"r"}}`, `{"USERNAME":"x"}`, `{"map":{"A":{"room":"x"}},"list":[{}]}`, `null`, `{"raw":[1],"any":1e5}`, `{"list":null,"at":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var ours, theirs target
		if err := jsonscan.Decode(doc, jsonscan.Options{}, &ours); err != nil {
			return
		}
		if err := json.Unmarshal(doc, &theirs); err != nil || !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("%+v, encoding/json %+v, %v", ours, theirs, err)
		}
		if name, found, err := jsonscan.Find(doc, jsonscan.Options{}, "username"); ours.Username != "" && (err != nil || !found || len(name) < 2) {
			t.Fatalf("username %q of %q", ours.Username, doc)
		}
	})
}
