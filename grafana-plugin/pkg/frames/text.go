package frames

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// formatted returns a value of a field that is no text as text.
func formatted(v any) string {
	switch x := v.(type) {
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	case float32:
		return strconv.FormatFloat(float64(x), 'f', -1, 32)
	case json.RawMessage:
		return string(x)
	default:
		return fmt.Sprint(v)
	}
}
