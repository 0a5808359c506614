package limit

import "net/netip"

// IPKey is what counts as one client among addresses: one IPv4 address (also
// when mapped into IPv6), or one IPv6 /64, the least that a household gets. The
// zero Addr gives the zero Prefix: clients without an address count as one.
func IPKey(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
