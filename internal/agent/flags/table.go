package flags

import "math"

// The groups of flags that exclude each other.
const (
	groupMalloc    = "how GPU memory is allocated"
	groupAll       = "precision of everything"
	groupUnet      = "precision of the diffusion model"
	groupVAE       = "precision of the VAE"
	groupText      = "precision of the text encoder"
	groupCache     = "what is kept of earlier runs"
	groupAttention = "how attention is computed"
	groupUpcast    = "whether attention is computed in more precision"
	groupMemory    = "what the memory mode is"
)

// Why the agent does not take a flag.
const (
	notTLS    = "the agent talks to its ComfyUI on this machine, without TLS; people reach it through the studio"
	notScreen = "nobody sits before this ComfyUI: people use it through the studio"
	notCI     = "ComfyUI would end right after its start"
)

const (
	sectionServer    = "ComfyUI: server"
	sectionLog       = "ComfyUI: log"
	sectionFolders   = "ComfyUI: folders and nodes"
	sectionMemory    = "ComfyUI: GPU and memory"
	sectionPrecision = "ComfyUI: precision"
	sectionSpeed     = "ComfyUI: speed and caches"
	sectionOther     = "ComfyUI: more"
)

var serverFlags = []Flag{
	{Name: "listen", Kind: Text, Bare: true, Section: sectionServer, Doc: "Addresses it listens on, separated by commas (127.0.0.1); without a value everywhere, for everybody in the network"},
	{Name: "port", Kind: Whole, Low: 1, High: 65535, Section: sectionServer, Doc: "Port it listens on (8188)"},
	{Name: "max-upload-size", Kind: Number, Low: 1, Section: sectionServer, Doc: "Largest upload in MB (the agent sets 2048; ComfyUI's own default is 100)"},
	{Name: "enable-cors-header", Kind: Text, Bare: true, Section: sectionServer, Doc: "Let pages of this origin use it; without a value those of every origin"},
	{Name: "enable-compress-response-body", Section: sectionServer, Doc: "Compress its answers"},
	{Name: "tls-keyfile", Kind: File, Section: sectionServer, Refused: notTLS, Doc: "Key of a certificate"},
	{Name: "tls-certfile", Kind: File, Section: sectionServer, Refused: notTLS, Doc: "Certificate"},
	{Name: "auto-launch", Section: sectionServer, Refused: notScreen, Doc: "Open a browser"},
	{Name: "disable-auto-launch", Section: sectionServer, Doc: "Open no browser (the agent always says so)"},
}

var logFlags = []Flag{
	{Name: "verbose", Kind: Choice, Bare: true, Choices: []string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}, Section: sectionLog, Doc: "What is logged; without a value DEBUG"},
	{Name: "log-stdout", Section: sectionLog, Doc: "Log to standard output; the agent reads both"},
	{Name: "dont-print-server", Section: sectionLog, Doc: "Don't print where it listens"},
}

var folderFlags = []Flag{
	{Name: "base-directory", Kind: Folder, Section: sectionFolders, Doc: "Folder of models, custom_nodes, input, output, temp and user"},
	{Name: "extra-model-paths-config", Kind: File, Many: true, Section: sectionFolders, Doc: "More model folders, as extra_model_paths.yaml; checked before the start"},
	{Name: "output-directory", Kind: Folder, Section: sectionFolders, Doc: "Where results go"},
	{Name: "input-directory", Kind: Folder, Section: sectionFolders, Doc: "Where uploads go"},
	{Name: "temp-directory", Kind: Folder, Section: sectionFolders, Doc: "Where previews go; what is in DIR/temp is deleted at the start"},
	{Name: "user-directory", Kind: Folder, Section: sectionFolders, Doc: "Where its own settings and workflows are"},
	{Name: "disable-all-custom-nodes", Section: sectionFolders, Doc: "Load no custom nodes, to see whether one of them is the trouble"},
	{Name: "whitelist-custom-nodes", Kind: Text, Many: true, Section: sectionFolders, Doc: "Folders of custom nodes that are loaded in spite of disable-all-custom-nodes"},
	{Name: "disable-api-nodes", Section: sectionFolders, Doc: "Don't load nodes that send work to paid services"},
}

var memoryFlags = []Flag{
	{Name: "cpu", Group: groupMemory, Section: sectionMemory, Doc: "Use no GPU; slow"},
	{Name: "gpu-only", Group: groupMemory, Section: sectionMemory, Doc: "Keep and run everything on the GPU, text encoders too"},
	{Name: "highvram", Group: groupMemory, Section: sectionMemory, Doc: "Leave models in GPU memory after use (about 24 GB and more)"},
	{Name: "normalvram", Group: groupMemory, Section: sectionMemory, Doc: "Normal use of GPU memory where ComfyUI would choose lowvram"},
	{Name: "lowvram", Group: groupMemory, Section: sectionMemory, Doc: "Load models in parts (about 6 GB)"},
	{Name: "novram", Group: groupMemory, Section: sectionMemory, Doc: "Use as little GPU memory as possible"},
	{Name: "reserve-vram", Kind: Number, Section: sectionMemory, Doc: "GPU memory in GB that is left to others"},
	{Name: "cuda-device", Kind: Whole, Section: sectionMemory, Doc: "Number of the only GPU it sees"},
	{Name: "default-device", Kind: Whole, High: 31, Section: sectionMemory, Doc: "Number of the GPU it uses first; it sees the others too"},
	{Name: "directml", Kind: Whole, Low: -1, Bare: true, Section: sectionMemory, Doc: "Use DirectML (Windows), on this device"},
	{Name: "oneapi-device-selector", Kind: Text, Section: sectionMemory, Doc: "Intel devices it sees"},
	{Name: "disable-ipex-optimize", Section: sectionMemory, Doc: "Don't optimise models for Intel GPUs"},
	{Name: "cuda-malloc", Group: groupMalloc, Section: sectionMemory, Doc: "Allocate by cudaMallocAsync"},
	{Name: "disable-cuda-malloc", Group: groupMalloc, Section: sectionMemory, Doc: "Don't allocate by cudaMallocAsync"},
	{Name: "disable-smart-memory", Section: sectionMemory, Doc: "Move models to main memory after use"},
	{Name: "async-offload", Kind: Whole, Low: 1, Bare: true, Section: sectionMemory, Doc: "Move weights while computing; newer versions take a number of streams"},
	{Name: "force-non-blocking", Section: sectionMemory, Doc: "Move tensors without waiting"},
	{Name: "mmap-torch-files", Section: sectionMemory, Doc: "Map ckpt and pt files into memory"},
	{Name: "disable-mmap", Section: sectionMemory, Doc: "Don't map safetensors into memory; for slow network folders"},
}

var precisionFlags = []Flag{
	{Name: "force-fp32", Group: groupAll, Section: sectionPrecision, Doc: "Everything in fp32"},
	{Name: "force-fp16", Group: groupAll, Section: sectionPrecision, Doc: "Everything in fp16: less memory, perhaps other pictures"},
	{Name: "fp32-unet", Group: groupUnet, Section: sectionPrecision, Doc: "Diffusion model in fp32"},
	{Name: "fp64-unet", Group: groupUnet, Section: sectionPrecision, Doc: "Diffusion model in fp64"},
	{Name: "bf16-unet", Group: groupUnet, Section: sectionPrecision, Doc: "Diffusion model in bf16"},
	{Name: "fp16-unet", Group: groupUnet, Section: sectionPrecision, Doc: "Diffusion model in fp16"},
	{Name: "fp8_e4m3fn-unet", Group: groupUnet, Section: sectionPrecision, Doc: "Diffusion model's weights in fp8 (e4m3fn)"},
	{Name: "fp8_e5m2-unet", Group: groupUnet, Section: sectionPrecision, Doc: "Diffusion model's weights in fp8 (e5m2)"},
	{Name: "fp8_e8m0fnu-unet", Group: groupUnet, Section: sectionPrecision, Doc: "Diffusion model's weights in fp8 (e8m0fnu)"},
	{Name: "fp16-vae", Group: groupVAE, Section: sectionPrecision, Doc: "VAE in fp16; pictures may be black"},
	{Name: "fp32-vae", Group: groupVAE, Section: sectionPrecision, Doc: "VAE in fp32"},
	{Name: "bf16-vae", Group: groupVAE, Section: sectionPrecision, Doc: "VAE in bf16"},
	{Name: "cpu-vae", Section: sectionPrecision, Doc: "VAE on the processor"},
	{Name: "fp8_e4m3fn-text-enc", Group: groupText, Section: sectionPrecision, Doc: "Text encoder's weights in fp8 (e4m3fn)"},
	{Name: "fp8_e5m2-text-enc", Group: groupText, Section: sectionPrecision, Doc: "Text encoder's weights in fp8 (e5m2)"},
	{Name: "fp16-text-enc", Group: groupText, Section: sectionPrecision, Doc: "Text encoder's weights in fp16"},
	{Name: "fp32-text-enc", Group: groupText, Section: sectionPrecision, Doc: "Text encoder's weights in fp32"},
	{Name: "bf16-text-enc", Group: groupText, Section: sectionPrecision, Doc: "Text encoder's weights in bf16"},
	{Name: "supports-fp8-compute", Section: sectionPrecision, Doc: "Take it that the device computes in fp8"},
	{Name: "deterministic", Section: sectionPrecision, Doc: "Slower algorithms that give the same result each time, where there are such"},
}

var speedFlags = []Flag{
	{Name: "cache-classic", Group: groupCache, Section: sectionSpeed, Doc: "Keep results of nodes in the old way"},
	{Name: "cache-lru", Kind: Whole, Group: groupCache, High: math.MaxInt32, Section: sectionSpeed, Doc: "Keep the results of the last N nodes"},
	{Name: "cache-none", Group: groupCache, Section: sectionSpeed, Doc: "Keep no results: less memory, every run computes everything"},
	{Name: "use-split-cross-attention", Group: groupAttention, Section: sectionSpeed, Doc: "Attention in parts"},
	{Name: "use-quad-cross-attention", Group: groupAttention, Section: sectionSpeed, Doc: "Attention in less than square memory"},
	{Name: "use-pytorch-cross-attention", Group: groupAttention, Section: sectionSpeed, Doc: "Attention by PyTorch"},
	{Name: "use-sage-attention", Group: groupAttention, Section: sectionSpeed, Doc: "Attention by the module sageattention"},
	{Name: "use-flash-attention", Group: groupAttention, Section: sectionSpeed, Doc: "Attention by the module flash_attn"},
	{Name: "disable-xformers", Section: sectionSpeed, Doc: "Don't use xformers"},
	{Name: "force-upcast-attention", Group: groupUpcast, Section: sectionSpeed, Doc: "Attention in more precision, against black pictures"},
	{Name: "dont-upcast-attention", Group: groupUpcast, Section: sectionSpeed, Doc: "Attention never in more precision"},
	{Name: "force-channels-last", Section: sectionSpeed, Doc: "Another order of tensors in memory"},
	{Name: "fast", Kind: Choice, Choices: []string{"fp16_accumulation", "fp8_matrix_mult", "cublas_ops", "autotune"}, Bare: true, Many: true, Section: sectionSpeed, Doc: "Optimisations that are not tested and may lower quality; without a value all of them"},
	{Name: "preview-method", Kind: Choice, Choices: []string{"none", "auto", "latent2rgb", "taesd"}, Section: sectionSpeed, Doc: "How previews are made (the agent sets auto; ComfyUI's own default is none)"},
	{Name: "preview-size", Kind: Whole, Low: 1, High: 8192, Section: sectionSpeed, Doc: "Largest side of a preview in pixels (512)"},
}

var otherFlags = []Flag{
	{Name: "default-hashing-function", Kind: Choice, Choices: []string{"md5", "sha1", "sha256", "sha512"}, Section: sectionOther, Doc: "How it tells equal uploads (sha256)"},
	{Name: "disable-metadata", Section: sectionOther, Doc: "Don't write the graph into results"},
	{Name: "multi-user", Section: sectionOther, Doc: "Storage for each of its own users; the studio needs none of it"},
	{Name: "front-end-version", Kind: Text, Section: sectionOther, Doc: "Version of its own page, OWNER/REPO@VERSION; the studio serves its own"},
	{Name: "front-end-root", Kind: Folder, Section: sectionOther, Doc: "Folder of its own page"},
	{Name: "comfy-api-base", Kind: Text, Section: sectionOther, Doc: "Address of the paid services"},
	{Name: "database-url", Kind: Text, Section: sectionOther, Doc: "Its own database"},
	{Name: "windows-standalone-build", Section: sectionOther, Doc: "It is the portable Windows folder (the agent says so there by itself)"},
	{Name: "quick-test-for-ci", Section: sectionOther, Refused: notCI, Doc: "End after the start"},
}
