variable "image" {
  description = "Container image with ComfyUI in comfyui_dir and comfyume in its path, with a fixed tag."
  type        = string

  validation {
    condition     = can(regex("(:[^/:]+|@sha256:[0-9a-f]{64})$", var.image)) && !endswith(var.image, ":latest")
    error_message = "Name a version, such as registry.example/comfy:2.1.0: containers that start at different times would run different programs."
  }
}

variable "registry_credential" {
  description = "Name of the registry credential at Verda that fetches the image; empty: the image is public."
  type        = string
  default     = ""
}

variable "agent_key_secret" {
  description = "Name of the secret at Verda that holds the key of the back ends: the inference key."
  type        = string
  default     = "comfyume-agent-key"
}

variable "volume_id" {
  description = "Id of the shared file system with the models; mounted at /mnt/sfs."
  type        = string
}

variable "comfyui_dir" {
  description = "Where ComfyUI is in the image."
  type        = string
  default     = "/comfyui"
}

variable "deployments" {
  description = "The deployments by name: which GPU, how many containers at most, and whether they may be taken away at any time."
  type = map(object({
    gpu  = string
    max  = number
    spot = bool
  }))
  default = {
    "comfyume-h200-spot" = { gpu = "H200", max = 4, spot = true }
    "comfyume-h200"      = { gpu = "H200", max = 2, spot = false }
    "comfyume-b300-spot" = { gpu = "B300", max = 4, spot = true }
    "comfyume-b300"      = { gpu = "B300", max = 2, spot = false }
  }
}
