// Package relay carries frames between a client and its upstream, both already
// upgraded, until either side or the bouncer ends the connection.
//
// Each direction is a pump: one goroutine that waits until its source can be
// read, takes a buffer from a pool, lets internal/frame walk over the headers,
// and writes what is whole to the other side as it came, still masked. A pump
// reads no further before its write is done, so a side that does not read
// costs one buffer and slows the other side down. While nothing comes a pump
// holds no buffer and a stack of 2 KiB.
//
// Where both sides are plain sockets on Linux and nothing is read by the gateway
// itself, Loops do the same without goroutines: one epoll instance a processor,
// whose goroutine reads into one buffer and keeps only what a side did not take.
// The pumps, their rules and their end are the same code.
//
// Whatever else is written goes between frames: the pings of the idle check,
// the answers of in-band refresh, and the one close frame. What a connection
// may do and when it must end is decided by others, who call Conn.End; the
// gateway starts a Conn for every admitted connection.
//
// No lock is shared between connections. A side's lock is held for a
// non-blocking system call at most.
package relay
