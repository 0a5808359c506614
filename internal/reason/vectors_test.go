package reason_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/reason"
)

var update = flag.Bool("update", false, "write the vectors anew from the table")

type closeVector struct {
	Code   uint16 `json:"code"`
	Text   string `json:"text"`
	Cut    bool   `json:"cut"`
	Advice string `json:"advice"`
}

type refusalVector struct {
	Code       string `json:"code"`
	Status     int    `json:"status"`
	CloseCode  uint16 `json:"close_code,omitempty"`
	RetryAfter int    `json:"retry_after,omitempty"`
	Detail     string `json:"detail"`
}

// The table as data is what the browser client and the documentation are
// checked against, so it must be this table and not a memory of it.
func TestVectorsAreThisTable(t *testing.T) {
	var closes []closeVector
	for _, e := range reason.Ends() {
		closes = append(closes, closeVector{e.Code, e.Text, e.Cut, string(e.Advice())})
	}
	var refusals []refusalVector
	for _, r := range reason.Refusals() {
		refusals = append(refusals, refusalVector{r.Code, r.Status, r.CloseCode, r.RetryAfter, r.Detail})
	}
	compare(t, "closes.json", "Every close frame of this program's own making: its code and reason text, whether it cuts a frame under way, and what a client does after it. Advice depends on the code alone.", "closes", closes)
	compare(t, "refusals.json", "Every refusal of a handshake or of the HTTP API: the stable code, the HTTP status, the close code where reject: close turns it into a 101 and a close frame (absent: it stays HTTP), Retry-After in seconds where one is sent.", "refusals", refusals)
}

func compare(t *testing.T, name, about, key string, table any) {
	t.Helper()
	rows, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	head, _ := json.Marshal(about)
	doc := append(append(append(append([]byte(`{"about":`), head...), `,"`+key+`":`...), rows...), '}')
	if err := json.Indent(&want, doc, "", "  "); err != nil {
		t.Fatal(err)
	}
	want.WriteByte('\n')
	path := filepath.Join("..", "..", "vectors", name)
	if *update {
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not the table in this package: run go test ./internal/reason -update", name)
	}
}
