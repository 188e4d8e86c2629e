package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// appendRanges adds the ranges of limits that are not there yet.
func appendRanges[V fmt.Stringer](ranges []netip.Prefix, limits []SourceLimit[V]) []netip.Prefix {
	for _, l := range limits {
		if !slices.Contains(ranges, l.Prefix) {
			ranges = append(ranges, l.Prefix)
		}
	}
	return ranges
}

// narrowestFirst sorts by the length of ranges. Equal ones keep their order.
func narrowestFirst[T any](all []T, prefix func(T) netip.Prefix) {
	slices.SortStableFunc(all, func(a, b T) int { return prefix(b).Bits() - prefix(a).Bits() })
}

// narrowest returns the value of the narrowest limit that holds the whole range, and of equal ones
// the last; the zero value if none does.
func narrowest[V fmt.Stringer](limits []SourceLimit[V], p netip.Prefix) (value V) {
	best := -2
	for _, l := range limits {
		if l.Prefix.Bits() >= best && (l.Prefix == p || l.Prefix == everyAddress || l.Prefix.Bits() <= p.Bits() && l.Prefix.Contains(p.Addr())) {
			best, value = l.Prefix.Bits(), l.Value
		}
	}
	return value
}
