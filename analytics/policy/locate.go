package policy

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// place finds the words at the beginning of an error of a threshold: decrease.min-time, or blocks.
var place = regexp.MustCompile(`^([a-z][a-z.-]*)(?:: ([a-z][a-z-]*))? (?:is|are|may)\b`)

// located puts the line in front of each joined error that begins with a threshold the file speaks of. path
// is where the thresholds stand.
func located(data []byte, err error, path ...string) []error {
	var root yaml.Node
	if yaml.Unmarshal(data, &root) != nil || len(root.Content) == 0 {
		return []error{err}
	}
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	all := make([]error, len(list))
	for i, one := range list {
		all[i] = fmt.Errorf("%s: %w", strings.Join(path, "."), one)
		words := path
		if m := place.FindStringSubmatch(one.Error()); m != nil {
			words = append(append([]string{}, path...), strings.Split(m[1], ".")...)
			if m[2] != "" {
				words = append(words, m[2])
			}
		}
		if line := lineAt(root.Content[0], words); line > 0 {
			all[i] = fmt.Errorf("line %d: %w", line, all[i])
		}
	}
	return all
}

// lineAt returns the line of the last of words that the file has, 0 if it has none.
func lineAt(node *yaml.Node, words []string) int {
	line := 0
	for _, word := range words {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		if node.Kind != yaml.MappingNode {
			return line
		}
		var value *yaml.Node
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == word {
				line, value = node.Content[i].Line, node.Content[i+1]
			}
		}
		if value == nil {
			return line
		}
		node = value
	}
	return line
}
