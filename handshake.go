package wsbouncer

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// checkHandshake judges the shape of an opening handshake (RFC 6455 §4.2.1)
// and of its target. The error is *Refusal.
func checkHandshake(r *http.Request) error {
	if r.Method != http.MethodGet {
		// HTTP/2's extended CONNECT (RFC 8441) arrives here too.
		return reason.MethodNotAllowed
	}
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 {
		return reason.BadHandshake.Because("A WebSocket is opened with HTTP/1.1.")
	}
	if r.Host == "" {
		return reason.BadHandshake.Because("The Host header is missing.")
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return reason.BadHandshake.Because("A WebSocket handshake has no body.")
	}
	if httpx.OddTarget(r) {
		return reason.OddTarget
	}
	return checkUpgrade(r.Header)
}

// checkUpgrade judges the headers. A request that does not mean to be a
// WebSocket at all is told to be one; one that tries and fails is malformed.
func checkUpgrade(h http.Header) error {
	upgrade, connection := h["Upgrade"], hasToken(h["Connection"], "upgrade")
	key, version := h["Sec-Websocket-Key"], h["Sec-Websocket-Version"]
	if len(upgrade) == 0 && !connection && len(key) == 0 && len(version) == 0 {
		return reason.UpgradeRequired
	}
	switch {
	case len(upgrade) != 1 || !strings.EqualFold(strings.TrimSpace(upgrade[0]), "websocket"):
		// "websocket, h2c" is refused too: whatever else is named would be ours to tunnel.
		return reason.BadHandshake.Because("The Upgrade header must be websocket, alone.")
	case !connection:
		return reason.BadHandshake.Because("The Connection header must name upgrade.")
	case len(key) != 1 || !validKey(strings.TrimSpace(key[0])):
		return reason.BadHandshake.Because("Sec-WebSocket-Key must be 16 bytes in base64, once.")
	case len(version) != 1:
		return reason.BadHandshake.Because("Sec-WebSocket-Version must be there once.")
	case strings.TrimSpace(version[0]) != "13":
		return reason.UpgradeRequired
	}
	return nil
}

func validKey(key string) bool {
	var b [18]byte
	if len(key) != 24 {
		return false
	}
	n, err := base64.StdEncoding.Strict().Decode(b[:], []byte(key))
	return err == nil && n == 16
}

// hasToken reports whether a comma-separated list over several lines names
// token, in any case.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for entry := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(entry, " \t"), token) {
				return true
			}
		}
	}
	return false
}
