"""Operations over prepared weights, for inference: prepacked for oneDNN, or quantized to 8 bits."""
