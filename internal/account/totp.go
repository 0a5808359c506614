package account

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6238's default, and what authenticator apps know; HMAC does not rest on collisions
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"time"
)

// TOTP as RFC 6238 §1.2 and what every authenticator app takes: SHA-1, six
// digits, steps of 30 seconds. It is some ten lines over the standard library.
const (
	totpStep   = 30 * time.Second
	totpDigits = 6
	totpSecret = 20 // bytes, RFC 4226 §4 R6
	// totpSkew is how many steps a code may be early or late (RFC 6238 §5.2).
	totpSkew = 1
)

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

func newTOTPSecret() []byte {
	b := make([]byte, totpSecret)
	_, _ = rand.Read(b) // never fails
	return b
}

// totpCode is HOTP (RFC 4226 §5.3) of a step.
func totpCode(secret []byte, step int64) string {
	mac := hmac.New(sha1.New, secret)
	_ = binary.Write(mac, binary.BigEndian, step)
	sum := mac.Sum(nil)
	offset := sum[len(sum)-1] & 15
	n := binary.BigEndian.Uint32(sum[offset:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", totpDigits, n%1_000_000)
}

// totpMatch finds the step that code is of, if it is one after last: a code is
// good once (RFC 6238 §5.2).
func totpMatch(secret []byte, code string, last int64, now time.Time) (step int64, ok bool) {
	if len(code) != totpDigits {
		return 0, false
	}
	at := now.Unix() / int64(totpStep/time.Second)
	for s := at - totpSkew; s <= at+totpSkew; s++ {
		if subtle.ConstantTimeCompare([]byte(totpCode(secret, s)), []byte(code)) == 1 && s > last {
			return s, true
		}
	}
	return 0, false
}

// totpURI is what authenticator apps read from a QR code.
func totpURI(secret []byte, issuer, name string) string {
	return (&url.URL{
		Scheme: "otpauth", Host: "totp", Path: "/" + issuer + ":" + name,
		RawQuery: "secret=" + base32Text.EncodeToString(secret) + "&issuer=" + url.PathEscape(issuer) +
			"&algorithm=SHA1&digits=6&period=30",
	}).String()
}
