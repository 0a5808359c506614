package e2e_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// delays are how long n messages took to an echo and back, over each of conns in
// turn, fewer when stop is closed.
func delays(conns []*client, stop <-chan struct{}, n int) (all []time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := range n {
		select {
		case <-stop:
			return all
		case <-tick.C:
		}
		began := time.Now()
		conns[i%len(conns)].alive()
		all = append(all, time.Since(began))
	}
	return all
}

func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[(len(all)-1)*p/100]
}

func spread(all []time.Duration) string {
	return fmt.Sprintf("%v (p50) %v (p99) of %d", percentile(all, 50), percentile(all, 99), len(all))
}

// DOS-02: while some say far too much, again and again, others do not notice.
func TestDOS02OthersDoNotNotice(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /limited, upstream: "ws://UPSTREAM", limits: {message_rate: {rate: 200/s, burst: 400}, byte_rate: {rate: 4MiB/s, burst: 8MiB}}}
  - {path: /other, upstream: "ws://UPSTREAM"}
`)
	token, attacker := bearer(iss.token()), bearer(iss.token(claims{"sub": "mallory"}))
	var others []*client
	for range 4 {
		others = append(others, s.connect("/other", token).alive())
	}
	before := delays(others, nil, 300)
	floods := [][]byte{
		bytes.Repeat(frame.AppendPing(nil, []byte(stuffing[:125]), true), 1000), bytes.Repeat(frame.Append(nil, frame.Text, []byte("x"), true), 1000),
		frame.Append(nil, frame.Binary, bytes.Repeat([]byte(stuffing), 15), true), // nearly message_bytes
	}
	stop := make(chan struct{})
	var attackers sync.WaitGroup
	var cut tally[uint16]
	for _, flood := range floods {
		attackers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := s.dial("/limited", attacker)
				if err != nil {
					t.Errorf("an attacker: %v", err)
					return
				}
				ends := c.watch()
				for err == nil {
					_, err = c.conn.Write(flood)
				}
				cut.add((<-ends).code)
				c.conn.Close()
			}
		})
	}
	over := make(chan struct{})
	for _, c := range others {
		_ = c.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	}
	time.AfterFunc(time.Duration(long(2, 60))*time.Second, func() { close(over) })
	during := delays(others, over, math.MaxInt)
	close(stop)
	attackers.Wait()
	t.Logf("messages of others took %s before, %s while %d connections were cut", spread(before), spread(during), len(cut.list()))
	if len(cut.list()) < len(floods) {
		t.Errorf("only %d attacks were cut", len(cut.list()))
	}
	// Attackers and the upstream share this machine with the gateway: this is a
	// bound for something that blocks, not for what a message takes.
	if p := percentile(during, 99); p > 2*percentile(before, 99)+500*time.Millisecond {
		t.Errorf("1 of 100 messages of others took more than %v", p)
	}
}
