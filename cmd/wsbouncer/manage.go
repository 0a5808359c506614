package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/token"
)

type statusCmd struct{ adminFlags }

// Run shows the state of a running server.
func (c *statusCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.Status, error) { return a.Status(ctx) },
		func(st adminapi.Status) string {
			state := "not ready"
			if st.Ready {
				state = "ready"
			}
			var b strings.Builder
			for _, l := range [][2]string{
				{"state", state}, {"version", st.Version + " (" + st.Go + ")"}, {"since", when(st.Started)},
				{"public", st.Public + " as " + st.PublicURL}, {"issuer", orNone(st.Issuer)}, {"config", orNone(st.Config)},
				{"routes", strings.Join(st.Routes, " ")}, {"connections", fmt.Sprint(st.Connections)},
				{"descriptors", fmt.Sprintf("%d of %d", st.Descriptors, st.DescriptorLimit)},
				{"memory", fmt.Sprintf("%d MB, %d goroutines", st.SystemBytes>>20, st.Goroutines)},
			} {
				fmt.Fprintf(&b, "%-12s %s\n", l[0], l[1])
			}
			for _, u := range st.Upstreams {
				fmt.Fprintf(&b, "%-12s %s %s, %d connections", "upstream", u.URL, u.State, u.Connections)
				if u.FailedAt != nil {
					fmt.Fprintf(&b, ", last failure %s (%s)", when(*u.FailedAt), u.LastFailure)
				}
				b.WriteByte('\n')
			}
			for _, t := range st.Trust {
				fmt.Fprintf(&b, "%-12s %s %s, %d keys, %d fetches, %d failed", "trust", t.Issuer, t.State, t.Keys, t.Fetches, t.Failures)
				if t.Error != "" {
					fmt.Fprintf(&b, ", last failure: %s", printable(t.Error))
				}
				b.WriteByte('\n')
			}
			for _, d := range st.Denied {
				what, by := "denied", fmt.Sprintf("rule %d", d.Rule)
				if d.Reported {
					what = "would deny"
				}
				if d.Rule < 0 {
					by = "no rule"
				}
				fmt.Fprintf(&b, "%-12s %s from the %s, by %s, %d times\n", what, d.Route, d.From, by, d.Times)
			}
			for _, x := range st.Exhausted {
				fmt.Fprintf(&b, "%-12s %s, %d times: %s\n", "exhausted", x.Name, x.Times, x.Advice)
			}
			for _, w := range st.Warnings {
				fmt.Fprintf(&b, "%-12s %s\n", "warning", w)
			}
			return strings.TrimRight(b.String(), "\n")
		})
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

type reloadCmd struct{ adminFlags }

// Run reloads the configuration.
func (c *reloadCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (done, error) { return done{true}, a.Reload(ctx) },
		func(done) string { return "reloaded" })
}

type tokenCmd struct {
	Issue   tokenIssueCmd   `cmd:"" help:"Issue an access token without a session."`
	Verify  tokenVerifyCmd  `cmd:"" help:"Ask a running server whether it accepts a token."`
	Inspect tokenInspectCmd `cmd:"" help:"Show what is in a token. Never verifies."`
}

type tokenIssueCmd struct {
	adminFlags
	Subject string        `required:"" help:"The account the token is for."`
	Scope   string        `help:"Scopes, separated by spaces."`
	TTL     time.Duration `name:"ttl" help:"Life (default: the configuration's access_ttl)."`
}

// Run issues a token.
func (c *tokenIssueCmd) Run(ctx context.Context, s *streams) error {
	if c.TTL < 0 || c.TTL%time.Second != 0 {
		return usageError("--ttl is whole seconds, for example 30s or 5m")
	}
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.IssuedToken, error) {
		return a.IssueToken(ctx, adminapi.IssueRequest{Subject: c.Subject, Scope: c.Scope, TTL: int64(c.TTL / time.Second)})
	}, func(t adminapi.IssuedToken) string { return t.AccessToken })
}

type tokenVerifyCmd struct {
	adminFlags
	Token string `arg:"" help:"The token; - reads it from standard input."`
}

// Run verifies a token.
func (c *tokenVerifyCmd) Run(ctx context.Context, s *streams) error {
	raw, err := s.argument(c.Token)
	if err != nil {
		return err
	}
	var v adminapi.VerifiedToken
	err = call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.VerifiedToken, error) {
		v, err = a.VerifyToken(ctx, raw)
		return v, err
	}, func(v adminapi.VerifiedToken) string {
		if !v.Valid {
			return "refused: " + v.Code + ": " + printable(v.Detail)
		}
		return fmt.Sprintf("valid: %s of %s, scope %s, until %s", printable(v.Subject), printable(v.Issuer), printable(strings.Join(v.Scopes, " ")), when(v.ExpiresAt))
	})
	if err == nil && !v.Valid {
		return errQuiet
	}
	return err
}

type tokenInspectCmd struct {
	Token string `arg:"" help:"The token; - reads it from standard input."`
	JSON  bool   `help:"Print JSON."`
}

// Run shows a token's content.
func (c *tokenInspectCmd) Run(s *streams) error {
	raw, err := s.argument(c.Token)
	if err != nil {
		return err
	}
	header, payload, err := token.Inspect(raw)
	if err != nil {
		return err
	}
	const note = "not verified: anybody can have written this"
	if c.JSON {
		return json.NewEncoder(s.out).Encode(struct {
			Note     string          `json:"note"`
			Verified bool            `json:"verified"`
			Header   json.RawMessage `json:"header"`
			Payload  json.RawMessage `json:"payload"`
		}{note, false, header, payload})
	}
	fmt.Fprintf(s.out, "%s\nheader  %s\npayload %s\n", note, printable(string(header)), printable(string(payload)))
	var claims struct {
		Issued float64 `json:"iat"`
		Expiry float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) == nil && claims.Expiry > 0 {
		end := time.Unix(int64(claims.Expiry), 0)
		fmt.Fprintf(s.out, "expires %s (%s)\n", when(end), relative(time.Until(end)))
	}
	return nil
}

func relative(d time.Duration) string {
	d = d.Round(time.Second)
	if d < 0 {
		return (-d).String() + " ago"
	}
	return "in " + d.String()
}

type keyCmd struct {
	List   keyListCmd   `cmd:"" help:"List signing keys."`
	Rotate keyRotateCmd `cmd:"" help:"Let the next key sign."`
	Revoke keyRevokeCmd `cmd:"" help:"Make a key worthless; connections that live by it end."`
}

type keyListCmd struct{ adminFlags }

// Run lists keys.
func (c *keyListCmd) Run(ctx context.Context, s *streams) error {
	return list(c.adminFlags, s, func(a *adminapi.Client, _ string) (p adminapi.Page[adminapi.Key], err error) {
		p.Items, err = a.Keys(ctx)
		return p, err
	}, "KID ALGORITHM STATE SINCE UNTIL", func(k adminapi.Key) []string {
		return []string{k.ID, k.Algorithm, string(k.State), when(k.Since), when(k.Until)}
	})
}

type keyRotateCmd struct{ adminFlags }

// Run rotates the signing key.
func (c *keyRotateCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.Key, error) { return a.RotateKey(ctx) },
		func(k adminapi.Key) string {
			return "key " + k.ID + " signs now; the old one verifies until its tokens are dead"
		})
}

type keyRevokeCmd struct {
	adminFlags
	KID    string `arg:"" help:"The key's id."`
	Reason string `help:"For the records."`
}

// Run revokes a key.
func (c *keyRevokeCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.RevokeResult, error) { return a.RevokeKey(ctx, c.KID, c.Reason) },
		revoked("key "+c.KID))
}

type sessionCmd struct {
	List   sessionListCmd   `cmd:"" help:"List sessions."`
	Revoke sessionRevokeCmd `cmd:"" help:"End a session; its connections close."`
}

type sessionListCmd struct {
	adminFlags
	Subject string `help:"Of this subject alone."`
}

// Run lists sessions.
func (c *sessionListCmd) Run(ctx context.Context, s *streams) error {
	return list(c.adminFlags, s, func(a *adminapi.Client, after string) (adminapi.Page[adminapi.Session], error) {
		return a.Sessions(ctx, c.Subject, after)
	}, "SESSION SUBJECT SCOPES IP CREATED LAST-USED EXPIRES", func(v adminapi.Session) []string {
		return []string{v.ID, v.Subject, strings.Join(v.Scopes, " "), v.IP, when(v.Created), when(v.LastUsed), when(v.Expires)}
	})
}

type sessionRevokeCmd struct {
	adminFlags
	SID string `arg:"" help:"The session's id."`
}

// Run ends a session.
func (c *sessionRevokeCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.Closed, error) { return a.EndSession(ctx, c.SID) },
		func(v adminapi.Closed) string { return "ended session " + c.SID + ": " + connections(v.Closed) })
}

type connCmd struct {
	List  connListCmd  `cmd:"" help:"List live connections."`
	Close connCloseCmd `cmd:"" help:"Close one; its client may come back."`
}

type connListCmd struct {
	adminFlags
	Subject string `help:"Of this subject alone."`
	Session string `help:"Of this session alone."`
	Route   string `placeholder:"PATH" help:"Of this route alone."`
}

// Run lists connections.
func (c *connListCmd) Run(ctx context.Context, s *streams) error {
	return list(c.adminFlags, s, func(a *adminapi.Client, after string) (adminapi.Page[adminapi.Connection], error) {
		return a.Connections(ctx, adminapi.ConnectionFilter{Subject: c.Subject, Session: c.Session, Route: c.Route, After: after})
	}, "CONNECTION SUBJECT SESSION ROUTE IP STARTED EXPIRES IN OUT", func(v adminapi.Connection) []string {
		return []string{v.ID, v.Subject, v.Session, v.Route, v.IP, when(v.Started), when(v.ExpiresAt), fmt.Sprint(v.ClientMessages), fmt.Sprint(v.UpstreamMessages)}
	})
}

type connCloseCmd struct {
	adminFlags
	CID string `arg:"" help:"The connection's id."`
}

// Run closes a connection.
func (c *connCloseCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.Closed, error) { return a.CloseConnection(ctx, c.CID) },
		func(v adminapi.Closed) string { return connections(v.Closed) })
}

type revokeCmd struct {
	Token   revokeTokenCmd   `cmd:"" help:"Revoke one access token, by its jti or the token itself."`
	Session revokeSessionCmd `cmd:"" help:"Revoke a session."`
	Subject revokeSubjectCmd `cmd:"" help:"Revoke everything a subject has so far."`
	Key     revokeKeyCmd     `cmd:"" help:"Revoke everything a key signed."`
	Before  revokeBeforeCmd  `cmd:"" help:"Revoke everything issued before a time."`
}

type revokeFlags struct {
	adminFlags
	Issuer string `placeholder:"ISS" help:"Whose (default: our own issuer, or else the only one that is trusted)."`
	Reason string `help:"For the records."`
}

func (f revokeFlags) revoke(ctx context.Context, s *streams, kind, value, what string) error {
	return call(f.adminFlags, s, func(a *adminapi.Client) (adminapi.RevokeResult, error) {
		return a.Revoke(ctx, adminapi.RevokeRequest{Kind: kind, Issuer: f.Issuer, Value: value, Reason: f.Reason})
	}, revoked(what))
}

func revoked(what string) func(adminapi.RevokeResult) string {
	return func(r adminapi.RevokeResult) string {
		return fmt.Sprintf("revoked %s (number %d): %s", what, r.ID, connections(r.Closed))
	}
}

type revokeTokenCmd struct {
	revokeFlags
	Token string `arg:"" name:"jti-or-token" help:"The token's jti, or the token; - reads it from standard input."`
}

// Run revokes a token.
func (c *revokeTokenCmd) Run(ctx context.Context, s *streams) error {
	v, err := s.argument(c.Token)
	if err != nil {
		return err
	}
	return c.revoke(ctx, s, "token", v, "token")
}

type revokeSessionCmd struct {
	revokeFlags
	SID string `arg:"" help:"The session's id."`
}

// Run revokes a session.
func (c *revokeSessionCmd) Run(ctx context.Context, s *streams) error {
	return c.revoke(ctx, s, "session", c.SID, "session "+c.SID)
}

type revokeSubjectCmd struct {
	revokeFlags
	Subject string `arg:"" help:"The subject."`
}

// Run revokes a subject.
func (c *revokeSubjectCmd) Run(ctx context.Context, s *streams) error {
	return c.revoke(ctx, s, "subject", c.Subject, "subject "+c.Subject)
}

type revokeKeyCmd struct {
	revokeFlags
	KID string `arg:"" help:"The key's id."`
}

// Run revokes a key.
func (c *revokeKeyCmd) Run(ctx context.Context, s *streams) error {
	return c.revoke(ctx, s, "key", c.KID, "key "+c.KID)
}

type revokeBeforeCmd struct {
	revokeFlags
	Time string `arg:"" help:"RFC 3339, for example 2026-11-24T10:00:00Z."`
}

// Run revokes everything before a time.
func (c *revokeBeforeCmd) Run(ctx context.Context, s *streams) error {
	if _, err := time.Parse(time.RFC3339, c.Time); err != nil {
		return usageError(fmt.Sprintf("%q is not a time such as 2026-11-24T10:00:00Z", c.Time))
	}
	return c.revoke(ctx, s, "before", c.Time, "everything issued before "+c.Time)
}

type auditCmd struct {
	List auditListCmd `cmd:"" help:"List security events, newest first."`
	Tail auditTailCmd `cmd:"" help:"Follow security events."`
}

type auditListCmd struct {
	adminFlags
	Limit int `default:"100" help:"How many."`
}

const auditHead = "TIME TYPE SUBJECT SESSION IP ACTOR DETAIL"

func auditRow(e adminapi.AuditEvent) []string {
	var detail []string
	for k, v := range e.Detail {
		if v != "" {
			detail = append(detail, k+"="+v)
		}
	}
	slices.Sort(detail)
	return []string{when(e.Time), e.Type, e.Subject, e.Session, e.IP, e.Actor, strings.Join(detail, " ")}
}

// Run lists events.
func (c *auditListCmd) Run(ctx context.Context, s *streams) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	p, err := a.Audit(ctx, 0, c.Limit)
	if err != nil {
		return err
	}
	return c.print(s, p.Items, func() {
		rows := make([][]string, len(p.Items))
		for i, e := range p.Items {
			rows[i] = auditRow(e)
		}
		table(s, auditHead, rows)
	})
}

type auditTailCmd struct {
	adminFlags
	Interval time.Duration `default:"1s" help:"How often to ask."`
}

// Run prints events as they come, one line each, until the context ends.
func (c *auditTailCmd) Run(ctx context.Context, s *streams) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	last, err := a.Audit(ctx, 0, 1)
	if err != nil {
		return err
	}
	var after int64
	for _, e := range last.Items {
		after = e.ID
	}
	tick := time.NewTicker(max(c.Interval, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		p, err := a.AuditSince(ctx, after, 1000)
		if err != nil {
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}
		for _, e := range p.Items {
			after = e.ID
			if c.JSON {
				if err := json.NewEncoder(s.out).Encode(e); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintln(s.out, printable(strings.Join(auditRow(e), " ")))
		}
	}
}
