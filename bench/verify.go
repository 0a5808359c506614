//go:build linux

package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// verify makes sure that the comparison is one: the server takes a good token
// and echoes, and refuses bad ones.
func (b *bench) verify(ctx context.Context, t *target) error {
	for _, alg := range algorithms {
		addr, ok := t.checked[alg]
		if !ok {
			continue
		}
		good, err := b.token(alg, "user", time.Now().Add(time.Hour))
		if err != nil {
			return err
		}
		said := []byte("said and said again")
		var heard []byte
		_, err = b.one(ctx, addr, request(addr, echoPath, good), func(c *client) { c.send(frame.Append(nil, frame.Text, said, true)) },
			func(c *client, p []byte) {
				heard = append(heard, p...)
				if len(heard) >= 2+len(said) {
					c.data = nil
					c.leave()
				}
			})
		if err != nil {
			return fmt.Errorf("%s, a good token: %w", alg, err)
		}
		if string(heard) != string(frame.Append(nil, frame.Text, said, false)) {
			return fmt.Errorf("%s: the echo is % x", alg, heard)
		}
		bad, err := b.badTokens(alg, good)
		if err != nil {
			return err
		}
		for what, token := range bad {
			opened, err := b.one(ctx, addr, request(addr, echoPath, token), (*client).leave, nil)
			if opened {
				return fmt.Errorf("%s, %s: it was let in", alg, what)
			}
			if !errors.Is(err, errRefused) {
				return fmt.Errorf("%s, %s: not refused: %w", alg, what, errors.Join(err))
			}
		}
	}
	return nil
}

// badTokens are what must be refused.
func (b *bench) badTokens(alg, good string) (map[string]string, error) {
	expired, err := b.keys.token(alg, "user", time.Now().Add(-time.Minute))
	if err != nil {
		return nil, err
	}
	part := strings.Split(good, ".")
	return map[string]string{
		"no token":               "",
		"an expired token":       expired,
		"another signature":      spoilt(good),
		"another's signature":    part[0] + "." + part[1] + "." + strings.Split(expired, ".")[2],
		"no signature, alg none": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + part[1] + ".",
	}, nil
}

// one opens one connection and waits for its end.
func (b *bench) one(ctx context.Context, addr string, head []byte, opened func(*client), data func(*client, []byte)) (wasOpen bool, err error) {
	ended := false
	c := &client{data: data, opened: func(c *client) { wasOpen = true; opened(c) }, closed: func(_ *client, e error) { ended, err = true, e }}
	if err := c.dial(b.l, addr, head); err != nil {
		return false, err
	}
	if late := b.l.run(ctx, time.Now().Add(5*time.Second), func() bool { return ended }); late != nil {
		c.cut()
		return wasOpen, late
	}
	return wasOpen, err
}

// token is a good one that nobody has seen but nginx's responder.
func (b *bench) token(alg, subject string, exp time.Time) (string, error) {
	token, err := b.keys.token(alg, subject, exp)
	b.up.known.Store("Bearer "+token, true)
	return token, err
}
