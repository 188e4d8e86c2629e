package scenarios

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
)

//go:embed *.json
var embedded embed.FS

// Names returns the names of the scenarios that come with carom.
func Names() []string {
	files, err := fs.Glob(embedded, "*.json")
	if err != nil {
		return nil // only a malformed pattern can do this
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f, ".json"))
	}
	return names
}

// Open reads the scenario file name, or the scenario of that name that comes with carom
// when name holds neither a dot nor a slash. The error lists every mistake with file, field and reason.
func Open(name string) (*Scenario, error) {
	if !strings.ContainsAny(name, "./\\") {
		b, err := embedded.ReadFile(name + ".json")
		if err != nil {
			return nil, fmt.Errorf("scenario %q: not one of %s; a file needs a dot or slash in its name",
				name, strings.Join(Names(), ", "))
		}
		return Parse(name, b)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read scenario: %w", err)
	}
	return Parse(name, b)
}

// Parse decodes and validates a scenario. Unknown fields are mistakes. The error lists every mistake,
// each with name, the field and the reason.
func Parse(name string, data []byte) (*Scenario, error) {
	p, s := problems{file: name}, &Scenario{}
	p.read(data, s)
	if len(p.errs) == 0 {
		p.validate(s)
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	if s.Scale == 0 {
		s.Scale = 1
	}
	return s, nil
}

// DecodeJSON decodes data into dst, a pointer to a struct, as strictly as Parse does. The error
// lists every mistake with name, the field and the reason.
func DecodeJSON(name string, data []byte, dst any) error {
	p := problems{file: name}
	p.read(data, dst)
	return errors.Join(p.errs...)
}

// problems collects the mistakes of one file.
type problems struct {
	file string
	errs []error
}

func (p *problems) addf(path, format string, args ...any) {
	if path == "" {
		path = "the file"
	}
	p.errs = append(p.errs, fmt.Errorf("%s: %s: %s", p.file, path, fmt.Sprintf(format, args...)))
}

// read decodes data into dst, a pointer to a struct.
func (p *problems) read(data []byte, dst any) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		offset := dec.InputOffset()
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = syntax.Offset
		}
		line := 1 + bytes.Count(data[:min(offset, int64(len(data)))], []byte("\n"))
		p.addf(fmt.Sprintf("line %d", line), "not JSON: %v", err)
		return
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		p.addf("", "has text after the end of the JSON object")
		return
	}
	p.decode("", tree, reflect.ValueOf(dst).Elem())
}

// decode stores the JSON value v in dst. encoding/json would stop at the first mistake and name
// neither the path of an unknown field nor the index of an array element.
func (p *problems) decode(path string, v any, dst reflect.Value) {
	if dst.Type() == reflect.TypeFor[Duration]() {
		p.decodeDuration(path, v, dst)
		return
	}
	switch dst.Kind() {
	case reflect.Struct:
		p.decodeStruct(path, v, dst)
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		p.decode(path, v, dst.Elem())
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			p.addf(path, "want a list, got %s", kind(v))
			return
		}
		dst.Set(reflect.MakeSlice(dst.Type(), len(list), len(list)))
		for i, e := range list {
			p.decode(fmt.Sprintf("%s[%d]", path, i), e, dst.Index(i))
		}
	case reflect.Array:
		list, ok := v.([]any)
		if !ok || len(list) != dst.Len() {
			p.addf(path, "want a list of %d", dst.Len())
			return
		}
		for i, e := range list {
			p.decode(fmt.Sprintf("%s[%d]", path, i), e, dst.Index(i))
		}
	case reflect.Map:
		object, ok := v.(map[string]any)
		if !ok {
			p.addf(path, "want an object, got %s", kind(v))
			return
		}
		dst.Set(reflect.MakeMap(dst.Type()))
		for k, e := range object {
			value := reflect.New(dst.Type().Elem()).Elem()
			p.decode(path+"."+k, e, value)
			dst.SetMapIndex(reflect.ValueOf(k), value)
		}
	default:
		p.decodeScalar(path, v, dst)
	}
}

func (p *problems) decodeStruct(path string, v any, dst reflect.Value) {
	object, ok := v.(map[string]any)
	if !ok {
		p.addf(path, "want an object, got %s", kind(v))
		return
	}
	fields := map[string]int{}
	for i := range dst.NumField() {
		name, _, _ := strings.Cut(dst.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = i
	}
	prefix := path
	if prefix != "" {
		prefix += "."
	}
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		i, ok := fields[name]
		if !ok {
			p.addf(prefix+name, "unknown field")
			continue
		}
		p.decode(prefix+name, object[name], dst.Field(i))
	}
}

func (p *problems) decodeDuration(path string, v any, dst reflect.Value) {
	text, ok := v.(string)
	if !ok {
		p.addf(path, `want a duration like "90m", got %s`, kind(v))
		return
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		p.addf(path, `%q is not a duration like "90m"`, text)
		return
	}
	dst.SetInt(int64(d))
}

func (p *problems) decodeScalar(path string, v any, dst reflect.Value) {
	switch x := v.(type) {
	case string:
		if dst.Kind() == reflect.String {
			dst.SetString(x)
			return
		}
	case bool:
		if dst.Kind() == reflect.Bool {
			dst.SetBool(x)
			return
		}
	case json.Number:
		switch dst.Kind() {
		case reflect.Float64:
			if f, err := x.Float64(); err == nil {
				dst.SetFloat(f)
				return
			}
		case reflect.Int:
			if n, err := x.Int64(); err == nil {
				dst.SetInt(n)
				return
			}
		case reflect.Uint64:
			if n, err := x.Int64(); err == nil && n >= 0 {
				dst.SetUint(uint64(n))
				return
			}
		default:
		}
	}
	p.addf(path, "want %s, got %s", want(dst.Kind()), kind(v))
}

func want(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number from 0"
	default:
		return "a number"
	}
}

// kind describes a JSON value for a message.
func kind(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("%q", x)
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	default:
		return fmt.Sprint(x)
	}
}
