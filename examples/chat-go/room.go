package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/wsbouncer/wsbouncer"
)

// room passes on what anybody in it says. It is an ordinary WebSocket handler:
// all it has of the library is the name of who is there.
type room struct {
	mu      sync.Mutex
	members map[chan string]bool
}

func (r *room) chat(w http.ResponseWriter, req *http.Request) {
	c, err := websocket.Accept(w, req, nil)
	if err != nil {
		return // it has answered
	}
	defer c.CloseNow()
	who := wsbouncer.FromContext(req.Context())
	lines := r.join()
	defer r.leave(lines)

	ctx, stop := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	writing.Go(func() {
		for {
			select {
			case line := <-lines:
				if err := write(ctx, c, line); err != nil {
					return
				}
			case <-who.Done(): // with the connection, for whatever reason
				return
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		_, line, err := c.Read(ctx)
		if err != nil {
			return
		}
		r.say(who.Subject + ": " + string(line))
	}
}

func write(ctx context.Context, c *websocket.Conn, line string) error {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	return c.Write(ctx, websocket.MessageText, []byte(line))
}

func (r *room) join() chan string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members == nil {
		r.members = map[chan string]bool{}
	}
	lines := make(chan string, 16)
	r.members[lines] = true
	return lines
}

func (r *room) leave(lines chan string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, lines)
}

// say tells everybody; who cannot keep up misses lines.
func (r *room) say(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for lines := range r.members {
		select {
		case lines <- line:
		default:
		}
	}
}
