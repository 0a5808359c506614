package httpx

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// ProxyHeaderTimeout is how long a proxy may take for its PROXY header, which it
// sends before anything the client says.
const ProxyHeaderTimeout = 5 * time.Second

var errUntrustedProxy = errors.New("it is no trusted proxy, and only those may connect")

// ListenBehindProxies takes connections of trusted proxies alone, each of which
// begins with a PROXY header. Accept gives them without it, with the client's
// address as RemoteAddr: that of Peers for all who ask it. refused is told of the
// others, which are closed.
func ListenBehindProxies(l net.Listener, peers *Peers, refused func(proxy net.Addr, why error)) net.Listener {
	p := &proxyListener{
		Listener: l, peers: peers, refused: refused,
		accepted: make(chan net.Conn), failed: make(chan error),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.run)
	return p
}

type proxyListener struct {
	net.Listener
	peers   *Peers
	refused func(net.Addr, error)

	accepted chan net.Conn
	failed   chan error // of the listener's Accept
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// Accept implements net.Listener.
func (p *proxyListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case err := <-p.failed:
		return nil, err
	case <-p.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Nothing runs any more when it returns.
func (p *proxyListener) Close() error {
	p.cancel()
	err := p.Listener.Close()
	p.wg.Wait()
	return err
}

// run accepts. Each header is waited for apart, so that nobody waits for another's;
// only proxies can make us wait.
func (p *proxyListener) run() {
	for {
		c, err := p.Listener.Accept()
		if err != nil {
			select {
			case p.failed <- err: // whoever accepts decides when to go on
				continue
			case <-p.ctx.Done():
				return
			}
		}
		if !p.peers.trusts(socketAddr(c.RemoteAddr().String())) {
			p.refused(c.RemoteAddr(), errUntrustedProxy)
			_ = c.Close()
			continue
		}
		p.wg.Go(func() { p.welcome(c) })
	}
}

func (p *proxyListener) welcome(c net.Conn) {
	proxied, err := p.read(c)
	if err != nil {
		if p.ctx.Err() == nil {
			p.refused(c.RemoteAddr(), err)
		}
		_ = c.Close()
		return
	}
	select {
	case p.accepted <- proxied:
	case <-p.ctx.Done():
		_ = c.Close()
	}
}

func (p *proxyListener) read(c net.Conn) (net.Conn, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.New("it is no TCP connection")
	}
	if err := tcp.SetReadDeadline(time.Now().Add(ProxyHeaderTimeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(p.ctx, func() { _ = tcp.SetReadDeadline(time.Unix(1, 0)) })
	source, err := ReadProxyHeader(tcp)
	if err != nil || !stop() {
		return nil, errors.Join(err, p.ctx.Err())
	}
	if err := tcp.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	switch {
	case source.Local:
		return tcp, nil
	case source.Client.IsValid():
		return &ProxiedConn{tcp, net.TCPAddrFromAddrPort(source.Client)}, nil
	}
	return &ProxiedConn{tcp, unknownAddr{}}, nil
}

// ProxiedConn is a connection whose PROXY header was read, with nothing in
// between: its TCPConn is all there is to read and write.
type ProxiedConn struct {
	*net.TCPConn
	client net.Addr
}

// RemoteAddr is the client's address.
func (c *ProxiedConn) RemoteAddr() net.Addr { return c.client }

// NetConn is the socket, as with tls.Conn.
func (c *ProxiedConn) NetConn() net.Conn { return c.TCPConn }

// unknownAddr is that of a client whose address its proxy does not tell. It is no
// IP address, so that nothing takes it for the proxy's, which could say more.
type unknownAddr struct{}

func (unknownAddr) Network() string { return "tcp" }
func (unknownAddr) String() string  { return "unknown:0" }
