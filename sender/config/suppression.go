package config

import "strings"

// names parses a list of names of the operator's own; "" is none.
func names(v *value) ([]string, error) {
	items, err := v.list("want names separated by commas")
	if err != nil {
		return nil, err
	}
	var all []string
	for _, item := range items {
		name, err := checkName(item.text)
		if err != nil {
			return nil, item.errorf("%v", err)
		}
		all = append(all, name)
	}
	return all, nil
}

// SuppressionList returns the name of the first of the source's suppression-lists that holds the address,
// "" if none does.
func (c *Config) SuppressionList(s *Source, address string) string {
	for _, name := range s.SuppressionLists {
		if l := c.AddressLists[strings.ToLower(name)]; l != nil && l.Match(address) {
			return l.Name
		}
	}
	return ""
}
