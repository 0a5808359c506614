package token

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// What Token.Binding begins with: the confirmation method (RFC 7800) that the
// rest of it is the thumbprint for.
const (
	boundToKey         = "jkt:"      // RFC 9449 §6.1
	boundToCertificate = "x5t#S256:" // RFC 8705 §3.1
)

// AnyKey given to WithProof stands for every key. It is for calls that need no
// proof, because holding the token is enough for them: its revocation, for one.
const AnyKey = "*"

type provedKey struct{}

// WithProof is ctx for a call whose sender proved to hold the keys of bindings,
// each as Token.Binding names it, besides those proved before. Verify refuses a
// bound token unless its key is among them.
func WithProof(ctx context.Context, bindings ...string) context.Context {
	before, _ := ctx.Value(provedKey{}).([]string)
	return context.WithValue(ctx, provedKey{}, slices.Concat(before, bindings))
}

// Proved reports whether ctx says that the key of binding was proved. Without a
// binding there is nothing to prove.
func Proved(ctx context.Context, binding string) bool {
	if binding == "" {
		return true
	}
	keys, _ := ctx.Value(provedKey{}).([]string)
	return slices.Contains(keys, binding) || slices.Contains(keys, AnyKey)
}

// KeyBinding is the Token.Binding of tokens bound to the key with that thumbprint
// (RFC 9449 §6.1).
func KeyBinding(thumbprint string) string { return boundToKey + thumbprint }

// CertificateBinding is the Token.Binding of tokens bound to a client's
// certificate (RFC 8705 §3.1).
func CertificateBinding(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return boundToCertificate + base64.RawURLEncoding.EncodeToString(sum[:])
}

// BoundToCertificate reports whether the token is bound to a client's
// certificate, and so to the connection that was opened with it.
func (t *Token) BoundToCertificate() bool { return strings.HasPrefix(t.Binding, boundToCertificate) }

// readBinding is the Binding of a cnf claim: exactly one method, of those two.
// "" stands for any other, which nothing here can prove.
func readBinding(value []byte) string {
	binding, members := "", 0
	err := jsonscan.Object(value, payloadJSON, func(key, value []byte) error {
		members++
		prefix := string(key) + ":"
		thumbprint, err := jsonscan.String(value)
		if err == nil && (prefix == boundToKey || prefix == boundToCertificate) && isThumbprint(thumbprint) {
			binding = prefix + thumbprint
		}
		return nil
	})
	if err != nil || members != 1 {
		return ""
	}
	return binding
}

// isThumbprint: s is the base64url of a SHA-256.
func isThumbprint(s string) bool {
	b, err := segment("", s)
	return err == nil && len(b) == sha256.Size
}
