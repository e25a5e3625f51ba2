package nodes

// textClasses describes the text nodes.
var textClasses = []*Class{
	{
		Name: "PrimitiveString", Display: "String", Schema: true, Category: "utils/primitive", Module: "comfy_extras.nodes_primitive",
		Inputs: []Input{
			{Name: "value", Type: "STRING", Opts: `{"multiline": false}`},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runPrimitiveString,
	},
	{
		Name: "PrimitiveStringMultiline", Display: "String (Multiline)", Schema: true, Category: "utils/primitive", Module: "comfy_extras.nodes_primitive",
		Inputs: []Input{
			{Name: "value", Type: "STRING", Opts: `{"multiline": true}`},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runPrimitiveStringMultiline,
	},
	{
		Name: "PrimitiveInt", Display: "Int", Schema: true, Category: "utils/primitive", Module: "comfy_extras.nodes_primitive",
		Inputs: []Input{
			{Name: "value", Type: "INT", Opts: `{"min": -9223372036854775807, "max": 9223372036854775807, "control_after_generate": true}`},
		},
		Outputs: []Output{{"INT", ""}},
		Run:     runPrimitiveInt,
	},
	{
		Name: "PrimitiveFloat", Display: "Float", Schema: true, Category: "utils/primitive", Module: "comfy_extras.nodes_primitive",
		Inputs: []Input{
			{Name: "value", Type: "FLOAT", Opts: `{"min": -9223372036854775807, "max": 9223372036854775807}`},
		},
		Outputs: []Output{{"FLOAT", ""}},
		Run:     runPrimitiveFloat,
	},
	{
		Name: "PrimitiveBoolean", Display: "Boolean", Schema: true, Category: "utils/primitive", Module: "comfy_extras.nodes_primitive",
		Inputs: []Input{
			{Name: "value", Type: "BOOLEAN"},
		},
		Outputs: []Output{{"BOOLEAN", ""}},
		Run:     runPrimitiveBoolean,
	},
	{
		Name: "PreviewAny", Display: "Preview Any", Category: "utils", Module: "comfy_extras.nodes_preview_any", OutputNode: true,
		Inputs: []Input{
			{Name: "source", Type: "*", Opts: `{}`},
		},
		Run: runPreviewAny,
	},
	{
		Name: "StringConcatenate", Display: "Concatenate", Schema: true, Category: "utils/string", Module: "comfy_extras.nodes_string",
		Inputs: []Input{
			{Name: "string_a", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "string_b", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "delimiter", Type: "STRING", Opts: `{"default": "", "multiline": false}`},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runStringConcatenate,
	},
	{
		Name: "StringReplace", Display: "Replace", Schema: true, Category: "utils/string", Module: "comfy_extras.nodes_string",
		Inputs: []Input{
			{Name: "string", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "find", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "replace", Type: "STRING", Opts: `{"multiline": true}`},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runStringReplace,
	},
	{
		Name: "StringTrim", Display: "Trim", Schema: true, Category: "utils/string", Module: "comfy_extras.nodes_string",
		Inputs: []Input{
			{Name: "string", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "mode", Type: "COMBO", Options: []string{"Both", "Left", "Right"}, Opts: `{"multiselect": false}`},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runStringTrim,
	},
	{
		Name: "StringLength", Display: "Length", Schema: true, Category: "utils/string", Module: "comfy_extras.nodes_string",
		Inputs: []Input{
			{Name: "string", Type: "STRING", Opts: `{"multiline": true}`},
		},
		Outputs: []Output{{"INT", "length"}},
		Run:     runStringLength,
	},
	{
		Name: "StringSubstring", Display: "Substring", Schema: true, Category: "utils/string", Module: "comfy_extras.nodes_string",
		Inputs: []Input{
			{Name: "string", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "start", Type: "INT"},
			{Name: "end", Type: "INT"},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runStringSubstring,
	},
	{
		Name: "StringContains", Display: "Contains", Schema: true, Category: "utils/string", Module: "comfy_extras.nodes_string",
		Inputs: []Input{
			{Name: "string", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "substring", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "case_sensitive", Type: "BOOLEAN", Opts: `{"default": true}`},
		},
		Outputs: []Output{{"BOOLEAN", "contains"}},
		Run:     runStringContains,
	},
	{
		Name: "CaseConverter", Display: "Case Converter", Schema: true, Category: "utils/string", Module: "comfy_extras.nodes_string",
		Inputs: []Input{
			{Name: "string", Type: "STRING", Opts: `{"multiline": true}`},
			{Name: "mode", Type: "COMBO", Options: []string{"UPPERCASE", "lowercase", "Capitalize", "Title Case"}, Opts: `{"multiselect": false}`},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runCaseConverter,
	},
}
