// Command wsbouncer is the gateway, and the commands that manage it.
//
// It parses, calls and prints; what it does lives in internal/app (the
// program) and internal/adminapi (a running program's admin interface).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// version is set by the Makefile; go install leaves it to the build's own record.
var version = ""

func init() {
	if version != "" {
		return
	}
	version = "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		version = info.Main.Version
	}
}

// Exit codes: what scripts rely on.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// streams is the world outside, so that a test can be one.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

type cli struct {
	Dev      devCmd      `cmd:"" help:"Run everything on loopback with a demo chat: gateway, issuer, two users, 30 s tokens."`
	Init     initCmd     `cmd:"" help:"Write a commented wsbouncer.yaml."`
	Serve    serveCmd    `cmd:"" help:"Run the gateway."`
	Check    checkCmd    `cmd:"" help:"Report every problem of a configuration, then show what is in force."`
	Status   statusCmd   `cmd:"" help:"Show a running gateway's state."`
	Reload   reloadCmd   `cmd:"" help:"Load configuration and certificates anew; a bad one changes nothing."`
	Health   healthCmd   `cmd:"" help:"Exit 0 when the gateway is ready."`
	Connect  connectCmd  `cmd:"" help:"A terminal WebSocket client: frames, the token's countdown, how it ended."`
	User     userCmd     `cmd:"" help:"Accounts that log in by password."`
	Identity identityCmd `cmd:"" help:"Users of login providers."`
	Token    tokenCmd    `cmd:"" help:"Issue, verify and look into tokens."`
	Key      keyCmd      `cmd:"" help:"Our own signing keys."`
	Session  sessionCmd  `cmd:"" help:"Logins."`
	Conn     connCmd     `cmd:"" help:"Live connections."`
	Revoke   revokeCmd   `cmd:"" help:"Revoke tokens, sessions, subjects, keys, or all issued before a time. Live connections end."`
	Audit    auditCmd    `cmd:"" help:"Security events."`
	Policy   policyCmd   `cmd:"" help:"Rules about connections and messages."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// run is main with the world passed in. Its result is the exit code.
func run(ctx context.Context, args []string, s streams) (code int) {
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("wsbouncer"),
		kong.Description("Token authentication for WebSockets: the connection follows the credential."),
		kong.Writers(s.out, s.err),
		kong.Exit(func(n int) { exited, code = true, n }), // --help
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&s),
	)
	if err != nil {
		fmt.Fprintf(s.err, "wsbouncer: %v\n", err)
		return exitFailed
	}
	parsed, err := parser.Parse(args)
	switch {
	case exited:
		return code
	case err != nil:
		fmt.Fprintf(s.err, "wsbouncer: %v; %s\n", err, whereHelp(err))
		return exitUsage
	}
	return report(parsed.Run(), s.err)
}

// whereHelp names the help of the command that was meant.
func whereHelp(err error) string {
	var wrong *kong.ParseError
	if errors.As(err, &wrong) {
		node := wrong.Context.Selected()
		for node != nil && node.Type == kong.ArgumentNode {
			node = node.Parent
		}
		if node != nil {
			how := node.FullPath() + " --help tells how"
			if len(node.Positional) > 0 && strings.HasPrefix(err.Error(), "unknown flag") {
				how += ", and a value that begins with a hyphen goes last, behind --"
			}
			return how
		}
	}
	return "wsbouncer --help lists the commands"
}

// errQuiet is a failure that has been told already.
var errQuiet = errors.New("failed")

// usageError is a mistake in how a command was called.
type usageError string

func (e usageError) Error() string { return string(e) }

func report(err error, w io.Writer) int {
	var file *brokenConfig
	var problems config.Problems
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errQuiet):
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintf(w, "wsbouncer: %v\n", err)
		return exitUsage
	case errors.As(err, &file):
		for _, p := range file.problems {
			fmt.Fprint(w, p.Render(file.path))
		}
		if file.hint != "" {
			fmt.Fprintf(w, "wsbouncer: %s\n", file.hint)
		}
		return exitFailed
	case errors.As(err, &problems):
		for _, p := range problems {
			fmt.Fprint(w, p.Render(""))
		}
		return exitFailed
	}
	fmt.Fprintf(w, "wsbouncer: %v\n", err)
	return exitFailed
}
