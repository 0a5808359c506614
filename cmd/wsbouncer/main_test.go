package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be the command too, so that scripts and the
// README's transcript run what is tested.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wsbouncer": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/scripts", RequireExplicitExec: true, RequireUniqueNames: true})
}

// linkSelf makes dir/wsbouncer the command under test.
func linkSelf(t *testing.T, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, dir+"/wsbouncer"); err != nil {
		t.Fatal(err)
	}
}
