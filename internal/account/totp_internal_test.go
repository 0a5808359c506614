package account

import (
	"testing"
	"time"
)

// RFC 6238 appendix B, of whose eight digits ours are the last six.
func TestTOTPAsInTheRFC(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{
		59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130",
	} {
		if got := totpCode(secret, at/30); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
}

func TestTOTPIsTakenOnceAndNearItsTime(t *testing.T) {
	secret := []byte("12345678901234567890")
	now := time.Unix(1111111109, 0)
	step := now.Unix() / 30
	for offset := int64(-3); offset <= 3; offset++ {
		got, ok := totpMatch(secret, totpCode(secret, step+offset), 0, now)
		if want := offset >= -1 && offset <= 1; ok != want || ok && got != step+offset {
			t.Errorf("%d steps away: %d %v", offset, got-step, ok)
		}
	}
	if _, ok := totpMatch(secret, totpCode(secret, step), step, now); ok {
		t.Error("a code was taken twice")
	}
	if _, ok := totpMatch(secret, totpCode(secret, step-1), step, now); ok {
		t.Error("a code before the last one was taken")
	}
	for _, odd := range []string{"", "0", "0818040", "08180４", " 81804", "081804\n"} {
		if _, ok := totpMatch(secret, odd, 0, now); ok {
			t.Errorf("%q was taken", odd)
		}
	}
}

func TestChallengesAreBounded(t *testing.T) {
	c, now := newChallenges(), time.Unix(1e9, 0)
	var texts []string
	for range challengesPerAccount + 1 {
		texts = append(texts, c.add(Account{Name: "ann"}, nil, now))
	}
	if _, _, ok := c.find(texts[0], now); ok {
		t.Error("the oldest of too many is still there")
	}
	key, ch, ok := c.find(texts[1], now)
	if !ok {
		t.Fatal("the others are gone")
	}
	if _, _, ok := c.find(texts[1], now.Add(challengeLife)); ok {
		t.Error("one is there after its time")
	}
	if !c.take(key, ch, now) || c.take(key, ch, now) {
		t.Error("one was taken twice, or not at all")
	}
	c.forget("ann")
	if _, _, ok := c.find(texts[2], now); ok {
		t.Error("one was not forgotten")
	}
}

func FuzzChallenge(f *testing.F) {
	c, now := newChallenges(), time.Unix(1e9, 0)
	f.Add(c.add(Account{Name: "ann"}, nil, now)[1:])
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if _, _, ok := c.find(text, now); ok {
			t.Errorf("%q was found", text)
		}
	})
}
