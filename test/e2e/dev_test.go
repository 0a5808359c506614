package e2e_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// The first thing anybody runs.
func TestDevRunsWithoutConfiguration(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	for name, args := range map[string][]string{"demo": nil, "own upstream": {"--upstream", "ws://" + up.addr}} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(binary, append([]string{"dev", "--listen", "127.0.0.1:0"}, args...)...)
			cmd.Dir = t.TempDir()
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			stuck := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			defer stuck.Stop()
			log, addr := "", ""
			for lines := bufio.NewScanner(stderr); addr == "" && lines.Scan(); {
				log += lines.Text() + "\n"
				var line struct{ Msg, Public string }
				if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
					addr = line.Public
				}
			}
			if addr != "" {
				if resp, err := http.Get("http://" + addr + "/"); err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("the page: %v %v", resp, err)
				} else {
					resp.Body.Close()
				}
			}
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil || addr == "" {
				t.Errorf("%v:\n%s", err, log)
			}
		})
	}
}
