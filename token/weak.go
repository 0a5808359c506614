package token

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

const (
	// maxRSABits bounds what one verification may cost.
	maxRSABits = 8192
	// minRSAExponent is that of FIPS 186-5 §A.1.1 (above 2^16).
	minRSAExponent = 1<<16 + 1
)

// checkRSA refuses RSA keys that are known to be weak.
func checkRSA(k *rsa.PublicKey) error {
	bits := k.N.BitLen()
	switch {
	case bits < jws.MinRSABits:
		return fmt.Errorf("its RSA modulus has %d bits, at least %d are needed", bits, jws.MinRSABits)
	case bits > maxRSABits:
		return fmt.Errorf("its RSA modulus has %d bits, at most %d are taken", bits, maxRSABits)
	case k.E < minRSAExponent || k.E%2 == 0:
		return errors.New("its RSA exponent is even or below 65537")
	case k.N.Bit(0) == 0:
		return errors.New("its RSA modulus is even")
	case roca(k.N):
		return errors.New("it was made by a broken generator (ROCA, CVE-2017-15361)")
	}
	for _, p := range smallPrimes {
		if new(big.Int).Mod(k.N, big.NewInt(p)).Sign() == 0 {
			return fmt.Errorf("its RSA modulus is divisible by %d", p)
		}
	}
	return nil
}

// smallPrimes are the odd primes whose product divides the structure of ROCA's
// primes for every key length.
var smallPrimes = []int64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73,
	79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
}

// roca reports whether n is a product of primes of the form k·M + (65537^a mod
// M), M a product of the first primes: then n is a power of 65537 modulo each
// of them. A sound modulus passes for one with a chance below 2^-27.
// Nemec et al., "The Return of Coppersmith's Attack", 2017, §3.2.
func roca(n *big.Int) bool {
	for _, p := range smallPrimes {
		r := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		if !powerOf65537(r, p) {
			return false
		}
	}
	return true
}

func powerOf65537(r, p int64) bool {
	g := int64(65537) % p
	for x := int64(1); ; {
		if x == r {
			return true
		}
		if x = x * g % p; x == 1 || x == 0 {
			return false
		}
	}
}
