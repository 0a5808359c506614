package jsonscan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

var documents = []struct {
	doc  string
	want error
}{
	{`{}`, nil}, {`[]`, nil}, {`""`, nil}, {`0`, nil}, {`-0`, nil}, {`true`, nil}, {`false`, nil}, {`null`, nil}, {" \t\r\n1 \n", nil},
	{`{"a":1,"b":[1,2,{"a":{"a":[]}}],"c":{"b":null}}`, nil}, {`[{"a":1},{"a":2}]`, nil}, {`{"a":{"a":{"a":1}}}`, nil},
	{`{"":1}`, nil}, {`{"A":1,"a":2}`, nil}, {`"\"\\\/\b\f\n\r\t\u00e9\u0000"`, nil}, {`"\ud83d\ude00"`, nil}, {`"😀é"`, nil}, {"\"\x7f\"", nil}, {`"\ufffd\ufffe"`, nil},
	{`1.5e10`, nil}, {`-1E-5`, nil}, {`1e308`, nil}, {`1e-999`, nil}, {`9007199254740993`, nil}, {strings.Repeat("9", 300), nil},

	{``, jsonscan.ErrSyntax}, {` `, jsonscan.ErrSyntax}, {`{`, jsonscan.ErrSyntax}, {`[`, jsonscan.ErrSyntax}, {`"`, jsonscan.ErrSyntax}, {`{"a"`, jsonscan.ErrSyntax}, {`{"a":`, jsonscan.ErrSyntax},
	{`{"a":1`, jsonscan.ErrSyntax}, {`{"a":1,`, jsonscan.ErrSyntax}, {`{"a":1,}`, jsonscan.ErrSyntax}, {`{,}`, jsonscan.ErrSyntax}, {`{a:1}`, jsonscan.ErrSyntax}, {`{'a':1}`, jsonscan.ErrSyntax},
	{`{1:1}`, jsonscan.ErrSyntax}, {`{"a" 1}`, jsonscan.ErrSyntax}, {`{"a":1 "b":2}`, jsonscan.ErrSyntax}, {`[1,]`, jsonscan.ErrSyntax}, {`[,1]`, jsonscan.ErrSyntax}, {`[1 2]`, jsonscan.ErrSyntax}, {`[1}`, jsonscan.ErrSyntax}, {`[1`, jsonscan.ErrSyntax}, {`{"a":1]`, jsonscan.ErrSyntax},
	{`tru`, jsonscan.ErrSyntax}, {`True`, jsonscan.ErrSyntax}, {`nul`, jsonscan.ErrSyntax}, {`NaN`, jsonscan.ErrSyntax}, {`Infinity`, jsonscan.ErrSyntax}, {`undefined`, jsonscan.ErrSyntax}, {`truee`, jsonscan.ErrSyntax},
	{`01`, jsonscan.ErrSyntax}, {`-`, jsonscan.ErrSyntax}, {`+1`, jsonscan.ErrSyntax}, {`.5`, jsonscan.ErrSyntax}, {`1.`, jsonscan.ErrSyntax}, {`1e`, jsonscan.ErrSyntax}, {`1e+`, jsonscan.ErrSyntax}, {`0x1`, jsonscan.ErrSyntax}, {`-01`, jsonscan.ErrSyntax}, {`1_0`, jsonscan.ErrSyntax}, {`--1`, jsonscan.ErrSyntax},
	{`1e309`, jsonscan.ErrSyntax}, {`[-1e400]`, jsonscan.ErrSyntax}, {strings.Repeat("9", 310), jsonscan.ErrSyntax},
	{`{} {}`, jsonscan.ErrSyntax}, {`{}x`, jsonscan.ErrSyntax}, {"{}\x00", jsonscan.ErrSyntax}, {"\ufeff{}", jsonscan.ErrSyntax}, {`{}//`, jsonscan.ErrSyntax}, {`/**/{}`, jsonscan.ErrSyntax}, {"\v1", jsonscan.ErrSyntax}, {"\u00a01", jsonscan.ErrSyntax},
	{"\"\n\"", jsonscan.ErrSyntax}, {"\"\x00\"", jsonscan.ErrSyntax}, {"\"\t\"", jsonscan.ErrSyntax}, {`"\x41"`, jsonscan.ErrSyntax}, {`"\u12"`, jsonscan.ErrSyntax}, {`"\u12g4"`, jsonscan.ErrSyntax}, {`"\`, jsonscan.ErrSyntax}, {`"\u`, jsonscan.ErrSyntax}, {`"\'"`, jsonscan.ErrSyntax}, {`"\U0041"`, jsonscan.ErrSyntax},
	{`"\ud83d"`, jsonscan.ErrUTF8}, {`"\ude00"`, jsonscan.ErrUTF8}, {`"\ud83dx"`, jsonscan.ErrUTF8}, {`"\ud83d\u0041"`, jsonscan.ErrUTF8}, {`"\ude00\ud83d"`, jsonscan.ErrUTF8}, {`"\ud83d\n12345"`, jsonscan.ErrUTF8}, {`{"\ud83d":1}`, jsonscan.ErrUTF8},
	{"\"\xff\"", jsonscan.ErrUTF8}, {"\"\xc3\"", jsonscan.ErrUTF8}, {"\"\xed\xa0\xbd\"", jsonscan.ErrUTF8}, {"\"\xc0\xaf\"", jsonscan.ErrUTF8}, {"\"\xf4\x90\x80\x80\"", jsonscan.ErrUTF8}, {"{\"\xff\":1}", jsonscan.ErrUTF8},
	{`{"a":1,"a":1}`, jsonscan.ErrDuplicate}, {`{"a":1,"\u0061":1}`, jsonscan.ErrDuplicate}, {`{"\u0061":1,"a":1}`, jsonscan.ErrDuplicate}, {`{"é":1,"\u00e9":1}`, jsonscan.ErrDuplicate}, {`{"😀":1,"\ud83d\uDE00":1}`, jsonscan.ErrDuplicate},
	{`{"/":1,"\/":1}`, jsonscan.ErrDuplicate}, {`{"":1,"":1}`, jsonscan.ErrDuplicate}, {`{"x":{"a":1,"b":2,"a":3}}`, jsonscan.ErrDuplicate}, {`[[{"a":1,"a":1}]]`, jsonscan.ErrDuplicate}, {`{"a":{"b":1},"c":{"a":1},"a":2}`, jsonscan.ErrDuplicate},
	{`{"\b\f\n\r\t\"\\":1,"\u0008\u000c\u000a\u000d\u0009\u0022\u005c":2}`, jsonscan.ErrDuplicate},
}

func TestValid(t *testing.T) {
	for _, d := range documents {
		err := jsonscan.Valid([]byte(d.doc), jsonscan.Options{})
		if !errors.Is(err, d.want) || (d.want == nil) != (err == nil) {
			t.Errorf("%.60q: %v, want %v", d.doc, err, d.want)
		}
		var e *jsonscan.Error
		if err != nil && (!errors.As(err, &e) || e.Offset < 0 || e.Offset > len(d.doc)) {
			t.Errorf("%.60q: error %#v", d.doc, err)
		}
	}
}

func TestJWT12KeysEqualUnderFolding(t *testing.T) {
	for doc, same := range map[string]bool{
		`{"exp":1,"EXP":2}`: true, `{"exp":1,"Exp":2}`: true, `{"sub":"bob","Sub":"admin"}`: true, `{"\u0045XP":1,"exp":2}`: true,
		`{"k":1,"\u212a":2}`: true, `{"K":1,"\u212A":2}`: true, `{"iss":1,"i\u017fs":2}`: true, `{"É":1,"é":2}`: true, `{"Σ":1,"ς":2}`: true, `{"Ω":1,"\u2126":2}`: true,
		`{"a":1,"b":2}`: false, `{"a":{"A":1}}`: false, `{"exp":1,"exp ":2}`: false, `{"ss":1,"ß":2}`: false, `{"A":1,"B":2,"c":{"a":1,"b":2}}`: false, `{"i":1,"ı":2}`: false,
	} {
		err := jsonscan.Valid([]byte(doc), jsonscan.Options{FoldKeys: true})
		if errors.Is(err, jsonscan.ErrDuplicate) != same || (!same && err != nil) {
			t.Errorf("%s: %v", doc, err)
		}
		if err := jsonscan.Valid([]byte(doc), jsonscan.Options{}); err != nil {
			t.Errorf("%s without folding: %v", doc, err)
		}
	}
	// The callback sees the key as it is, not as it is compared.
	_ = jsonscan.Object([]byte(`{"\u0045xP":1}`), jsonscan.Options{FoldKeys: true}, func(key, _ []byte) error {
		if string(key) != "ExP" {
			t.Errorf("key %q", key)
		}
		return nil
	})
}

func TestJWT15Bounds(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	objects := func(n int) []byte { return []byte(strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n)) }
	members := func(n int) []byte {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":%d`, i, i)
		}
		return []byte("{" + b.String()[1:] + "}")
	}
	for name, c := range map[string]struct {
		doc  []byte
		o    jsonscan.Options
		want error
	}{
		"64 arrays":           {nested(64), jsonscan.Options{}, nil},
		"65 arrays":           {nested(65), jsonscan.Options{}, jsonscan.ErrDepth},
		"64 objects":          {objects(64), jsonscan.Options{}, nil},
		"65 objects":          {objects(65), jsonscan.Options{}, jsonscan.ErrDepth},
		"100 000 arrays":      {nested(100_000), jsonscan.Options{}, jsonscan.ErrDepth},
		"own depth":           {nested(3), jsonscan.Options{MaxDepth: 2}, jsonscan.ErrDepth},
		"scalar at own depth": {[]byte("[[1]]"), jsonscan.Options{MaxDepth: 2}, nil},
		"1024 members":        {members(1024), jsonscan.Options{}, nil},
		"1025 members":        {members(1025), jsonscan.Options{}, jsonscan.ErrSize},
		"own members":         {members(3), jsonscan.Options{MaxMembers: 2}, jsonscan.ErrSize},
		"1 MiB":               {append([]byte(`1`), make1(1<<20-1)...), jsonscan.Options{}, nil},
		"1 MiB and a byte":    {append([]byte(`1`), make1(1<<20)...), jsonscan.Options{}, jsonscan.ErrSize},
		"own bytes":           {[]byte(`[1,2]`), jsonscan.Options{MaxBytes: 4}, jsonscan.ErrSize},
		"the last duplicate":  {append(members(1000)[:len(members(1000))-1], `,"k0":1}`...), jsonscan.Options{}, jsonscan.ErrDuplicate},
	} {
		if err := jsonscan.Valid(c.doc, c.o); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func make1(n int) []byte { return []byte(strings.Repeat(" ", n)) }

func TestObjectAndFind(t *testing.T) {
	doc := []byte(` { "a" : [1, 2] , "\u0062" : {"a":"x"} , "c":null } `)
	var got []string
	err := jsonscan.Object(doc, jsonscan.Options{}, func(k, v []byte) error {
		got = append(got, string(k)+"="+string(v))
		return nil
	})
	if want := []string{"a=[1, 2]", `b={"a":"x"}`, "c=null"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	stop := errors.New("enough")
	if err := jsonscan.Object(doc, jsonscan.Options{}, func(_, _ []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callback's error became %v", err)
	}
	for name, want := range map[string]string{"a": "[1, 2]", "b": `{"a":"x"}`, "c": "null", "d": "", "": "", "A": "", `\u0062`: ""} {
		v, found, err := jsonscan.Find(doc, jsonscan.Options{}, name)
		if err != nil || string(v) != want || found != (want != "") {
			t.Errorf("Find %q: %q %v %v", name, v, found, err)
		}
	}
	for _, bad := range []string{`[]`, `1`, `"x"`, ``, ` `, `null`, `{"a":1}x`, `{"a":1,"b":{"x":1,"x":2}}`, `{"a":1,"b":tru}`, "\ufeff{}"} {
		if err := jsonscan.Object([]byte(bad), jsonscan.Options{}, func(_, _ []byte) error { return nil }); err == nil {
			t.Errorf("Object took %q", bad)
		}
		if v, found, err := jsonscan.Find([]byte(bad), jsonscan.Options{}, "a"); err == nil || found || v != nil {
			t.Errorf("Find in %q: %q %v %v", bad, v, found, err)
		}
	}
	// Appending to what was found must not write into the document.
	doc = []byte(`{"a":1,"b":2}`)
	v, _, _ := jsonscan.Find(doc, jsonscan.Options{}, "a")
	_ = append(v, 'x')
	if string(doc) != `{"a":1,"b":2}` {
		t.Errorf("the document became %s", doc)
	}
}

func TestString(t *testing.T) {
	for raw, want := range map[string]string{
		`"abc"`: "abc", `""`: "", `"é😀"`: "é😀", `"\u00e9\ud83d\ude00\n\\\/\""`: "é😀\n\\/\"", `"a\tb"`: "a\tb", `"\u0000"`: "\x00",
	} {
		if got, err := jsonscan.String([]byte(raw)); err != nil || got != want {
			t.Errorf("%s: %q, %v", raw, got, err)
		}
	}
	for _, raw := range []string{``, `abc`, `"abc`, `abc"`, `"a"b`, ` "a"`, `"a" `, `"a""b"`, `"\x"`, `"\ud800"`, "\"\xff\"", `1`, `null`, `"`} {
		if got, err := jsonscan.String([]byte(raw)); err == nil {
			t.Errorf("%q gives %q", raw, got)
		}
	}
}

type inner struct {
	Room string `json:"room"`
}

type target struct {
	Username string           `json:"username"`
	Cookie   bool             `json:"cookie,omitempty"`
	Untagged int              //
	Inner    *inner           `json:"inner"`
	List     []inner          `json:"list"`
	Map      map[string]inner `json:"map"`
	Raw      json.RawMessage  `json:"raw"`
	At       time.Time        `json:"at"`
	Any      any              `json:"any"`
	Skip     string           `json:"-"`
	hidden   string
	inner2
}

type inner2 struct {
	Embedded string `json:"embedded"`
}

func TestDecode(t *testing.T) {
	doc := `{"username":"ann","cookie":true,"Untagged":3,"inner":{"room":"r"},"list":[{"room":"l"}],"map":{"X":{"room":"m"}},"raw":{"ROOM":1},"at":"2026-11-24T10:00:00Z","any":{"Whatever":[{"x":1}]},"embedded":"e"}`
	var v target
	if err := jsonscan.Decode([]byte(doc), jsonscan.Options{}, &v); err != nil {
		t.Fatal(err)
	}
	if v.Username != "ann" || !v.Cookie || v.Untagged != 3 || v.Inner.Room != "r" || v.List[0].Room != "l" || v.Map["X"].Room != "m" || string(v.Raw) != `{"ROOM":1}` || v.At.Year() != 2026 || v.Embedded != "e" || v.hidden != "" {
		t.Errorf("%+v", v)
	}
	for doc, want := range map[string]error{
		`{"Username":"ann"}`:              jsonscan.ErrUnknown,
		`{"USERNAME":"ann"}`:              jsonscan.ErrUnknown,
		`{"u\u017fername":"ann"}`:         jsonscan.ErrUnknown,
		`{"untagged":1}`:                  jsonscan.ErrUnknown,
		`{"inner":{"Room":"r"}}`:          jsonscan.ErrUnknown,
		`{"list":[{},{"ROOM":"r"}]}`:      jsonscan.ErrUnknown,
		`{"map":{"x":{"rooM":"r"}}}`:      jsonscan.ErrUnknown,
		`{"username":"a","admin":true}`:   jsonscan.ErrUnknown,
		`{"Skip":"x"}`:                    jsonscan.ErrUnknown,
		`{"-":"x"}`:                       jsonscan.ErrUnknown,
		`{"hidden":"x"}`:                  jsonscan.ErrUnknown,
		`{"inner2":{}}`:                   jsonscan.ErrUnknown,
		`{"username":"a","username":"b"}`: jsonscan.ErrDuplicate,
		`{"username":"a"} x`:              jsonscan.ErrSyntax,
		`{"username":1}`:                  jsonscan.ErrType,
		`[]`:                              jsonscan.ErrType,
		`{"at":"yesterday"}`:              jsonscan.ErrType,
	} {
		var v target
		if err := jsonscan.Decode([]byte(doc), jsonscan.Options{}, &v); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", doc, err, want)
		}
	}
}

const message = `{"iss":"https://rt.example.com","aud":"wsbouncer","sub":"ann","exp":1795514400,"iat":1795514100,"jti":"0192f3c4-9d8e-7a6b-8c5d-4e3f2a1b0c9d","sid":"s_8f7e6d5c4b3a","client_id":"web","scope":"chat chat:write","rev":42,"rooms":["lobby","d\u00e9j\u00e0","😀"],"nested":{"a":{"b":[1,2.5,true,null]}}}`

func BenchmarkValid(b *testing.B) {
	doc := []byte(message)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := jsonscan.Valid(doc, jsonscan.Options{FoldKeys: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	doc := []byte(`{"type":"message","room":"lobby","text":"Hello there, how are you today?","n":17}`)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, found, err := jsonscan.Find(doc, jsonscan.Options{}, "wsbouncer"); err != nil || found {
			b.Fatal(err)
		}
	}
}

// The worst that a mebibyte of keys can cost.
func BenchmarkManyKeys(b *testing.B) {
	var s strings.Builder
	for o := range 64 {
		fmt.Fprintf(&s, `{"nest":`)
		_ = o
	}
	s.WriteString("1")
	for o := range 64 {
		for i := range 1000 {
			fmt.Fprintf(&s, `,"%x":1`, o<<12|i)
		}
		s.WriteString("}")
	}
	doc := []byte(s.String())
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := jsonscan.Valid(doc, jsonscan.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodingJSONValid(b *testing.B) {
	doc := []byte(message)
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		json.Valid(doc)
	}
}
